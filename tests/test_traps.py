"""Every trap obeys every law, or is refused, or left alone in part, for the reason that is right."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest
import torch
from laws import call, examine
from networks import Chain
from torch import nn
from traps import (
    BEFORE,
    ORDER,
    SMALL,
    TRAPS,
    Autocast,
    BatchStatistics,
    BehindZeros,
    Faint,
    Infinite,
    LowPrecision,
    conv,
)
from util import assert_close, assert_unchanged, snapshot

from hairify import HairError, hairify, plan
from hairify.errors import SplitError

pytestmark = [
    pytest.mark.filterwarnings("ignore::hairify.errors.HairWarning"),
    pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning"),
]


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap(name: str) -> None:
    trap = TRAPS[name]
    # Their layers left alone are told for repeated blocks, beside which the default converts all others.
    specimen = dataclasses.replace(trap.specimen, options={"targets": "auto", **trap.specimen.options})
    if trap.refused is not None:
        model = trap.specimen.build().double().eval()
        before = snapshot(model)
        with pytest.raises(HairError, match=re.escape(trap.refused)):
            hairify(model, **specimen.options)
        assert_unchanged(model, before)
        return
    made = examine(specimen).plan
    assert made.split == trap.split
    left_alone = {n: r for n, r in made.skipped.items() if BEFORE not in r or n in trap.left_alone}
    assert left_alone.keys() == trap.left_alone.keys(), made.skipped
    for layer, reason in trap.left_alone.items():
        assert reason in left_alone[layer], f"{layer}: {left_alone[layer]}"


@pytest.mark.parametrize("name", ["channels_last", "not contiguous", "one channel seen as three"])
def test_inputs_arrive_with_their_strides(name: str) -> None:
    inputs = TRAPS[name].specimen.some(SMALL[0])
    assert not inputs.is_contiguous()
    got = call(lambda x: x, inputs)
    assert (got.stride(), got.storage_offset()) == (inputs.stride(), inputs.storage_offset())
    assert torch.equal(got, inputs)
    assert got.untyped_storage().data_ptr() != inputs.untyped_storage().data_ptr()


# The laws are told in float64, of networks that keep images apart, whose outputs are finite. Not so these:


def test_layers_after_images_are_mixed_are_left_alone() -> None:
    skipped = plan(BatchStatistics(early=False)).skipped
    assert {name for name, reason in skipped.items() if ORDER in reason} == {"body.1", "last"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "make", [lambda: Faint(2), lambda: Faint(12), lambda: BatchStatistics(early=True)], ids=["near", "faint", "norm"]
)
def test_mixed_images_are_noticed_however_faint(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    with pytest.raises(SplitError, match="does not keep the images of a batch apart"):
        plan(make().to(dtype), split_at="split", targets="layers")


def test_the_order_is_known_behind_layers_that_start_at_zero() -> None:
    skipped = plan(BehindZeros(), targets="layers").skipped
    assert ORDER in skipped["body.1"]


@pytest.mark.parametrize("make", [Autocast, LowPrecision])
def test_a_region_of_low_precision(make: type[Chain]) -> None:
    model, x = make(conv(), conv()).eval(), torch.rand(3, 3, 16, 24)
    hair = hairify(model, preset="published")
    assert all(BEFORE in reason for reason in hair.plan.skipped.values())
    with torch.no_grad():
        assert_close(hair(x), model(x), 1e-2)  # two roundings to bfloat16
    hair.train()(x).sum().backward()


def test_outputs_that_are_not_finite_speak_against_no_layer() -> None:
    assert all(BEFORE in reason for reason in plan(Infinite(conv(), conv())).skipped.values())


def test_a_lazy_layer_is_refused_or_left_alone() -> None:
    model = Chain(nn.LazyConv2d(8, 3, padding=1), conv())
    try:
        reason = plan(model).skipped["body.0"]
    except HairError as error:
        reason = str(error)
    assert "run the model once" in reason.lower()
    assert nn.parameter.is_lazy(model.body[0].weight)


def test_a_box_is_frozen_where_all_its_layers_were() -> None:
    model = Chain(*(conv() for _ in range(4)))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(("body.0", "body.1", "last.bias")))
    hair = hairify(model, preset="published", split_at="split", targets="layers", include=("body.*", "last"))
    frozen = {
        f"{level.name}.{name}": not rows.requires_grad
        for level, box in zip(hair.plan.levels, hair.boxes, strict=True)
        for name, rows in box.named_parameters()
    }
    expected = {f"{i}.{kind}": i in ("body.0", "body.1") for i in map("body.{}".format, range(4)) for kind in KINDS}
    assert frozen == expected | {"last.weight": False, "last.bias": True}


KINDS = ("weight", "bias")
