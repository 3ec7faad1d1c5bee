"""What training does for the use of the GIV: calibration, a second loss, learning rates of their own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from training_runs import Same, Samples, Task, broken_off, converted, recipe, run, seeded
from util import assert_close

from hairify import HairModel, hairify, load, plan, save
from hairify.errors import OptionError, TrainingError
from hairify.models import restormer
from hairify.networks._embedding import embed
from hairify.training import l1_loss
from hairify.training._optimizer import RELATIVE_RATE, adamw


def degraded(count: int) -> torch.Tensor:
    return torch.stack([Samples()[i]["degraded"] for i in range(count)])


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def small() -> nn.Module:
    return seeded(lambda: restormer(dim=8, num_blocks=(1, 1, 1, 2), num_refinement_blocks=1))


def embedding() -> nn.Module:
    return embed(small(), plan(small(), split_at="down3_4"))


def own_dac() -> HairModel:
    def dac(channels: int, dim: int) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, dim))

    return hairify(small(), split_at="down3_4", dac=dac)


def frozen() -> HairModel:
    """All before the split is; what is left ordinary behind it is not."""
    hair = converted("low_rank")
    for name, parameter in hair.base.named_parameters():
        parameter.requires_grad_(not name.startswith(("patch_embed", "encoder", "down")))
    return hair


def squared(network: nn.Module, degraded: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    return (network(degraded) - clean).square().mean(dim=(1, 2, 3))


def under_the_mean(network: nn.Module, degraded: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    assert isinstance(network, HairModel)
    with network.conditioned_on(torch.zeros(1, network.plan.giv_dim)):
        return l1_loss(network, degraded, clean)


def published() -> HairModel:
    return hairify(small(), split_at="down3_4", preset="published")


def test_a_run_begins_with_calibration(tmp_path: Path) -> None:
    by_hand = converted("low_rank").calibrate(degraded(8))
    trained = run(converted("low_rank"), tmp_path, steps=0, calibration=8).model
    assert isinstance(trained, HairModel)
    assert int(trained.standardization.images) == 8
    for name, value in trained.state_dict().items():
        assert_close(value.double(), by_hand.state_dict()[name].double(), 1e-5)


def test_a_run_without_calibration(tmp_path: Path) -> None:
    fresh = converted("low_rank")
    trained = run(converted("low_rank"), tmp_path, steps=0, calibration=0).model
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in trained.state_dict().items())


def test_what_was_calibrated_stays_so(tmp_path: Path) -> None:
    by_hand = converted("low_rank").calibrate(torch.rand(5, 3, 16, 16))
    trained = run(converted("low_rank").calibrate(torch.rand(5, 3, 16, 16)), tmp_path, steps=2, calibration=8).model
    assert int(trained.standardization.images) == int(by_hand.standardization.images) == 5


@pytest.mark.slow
@pytest.mark.parametrize("init", ["preserve", "random"])
@pytest.mark.parametrize("preset", ["default", "published"])
def test_a_trained_network_is_not_calibrated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, init: Any, preset: Any
) -> None:
    """Neither from fresh weights nor from a file: it would be another network."""
    hair = hairify(small(), split_at="down3_4", preset=preset, init=init)
    run(hair, tmp_path / "first", steps=3, calibration=0, learning_rate=1e-2, ema_decay=0.0)
    save(hair, tmp_path / "hair.safetensors")
    again = load(tmp_path / "hair.safetensors", small())
    before = state_of(again)
    with caplog.at_level(logging.WARNING):
        run(again, tmp_path / "second", steps=0)
    assert any("without calibration" in message for message in caplog.messages)
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("init", ["preserve", "random"])
@pytest.mark.parametrize("preset", ["default", "published"])
def test_a_fresh_network_computes_the_same_once_calibrated(init: Any, preset: Any) -> None:
    network = small().double().eval()
    hair, x = hairify(network, preset=preset, init=init), degraded(4).double()
    with torch.no_grad():
        before, hsns = hair(x), state_of(hair.hsn)
        assert_close(hair.calibrate(x)(x), before, 1e-10)
    assert any(not torch.equal(value, hsns[name]) for name, value in hair.hsn.state_dict().items())


def test_a_shifted_network_is_not_calibrated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hair = converted()
    shifted = embed(small(), hair.plan)
    with torch.no_grad():
        shifted.projections[0].weight.fill_(0.1)
    before = state_of(shifted)
    with caplog.at_level(logging.WARNING):
        run(shifted, tmp_path, steps=0)
    assert any("without calibration" in message for message in caplog.messages)
    assert all(torch.equal(value, before[name]) for name, value in shifted.state_dict().items())


def test_the_second_loss_teaches_givs_to_tell_degradations_apart(tmp_path: Path) -> None:
    """Of the base alone before the split, and not without it: what is restored asks for nothing here."""

    def still(network: nn.Module, degraded: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        return (network(degraded) * 0).sum(dim=(1, 2, 3))

    before = converted("low_rank")
    for weight in (0.0, 1.0):
        model = converted("low_rank")
        run(model, tmp_path / str(weight), loss=still, classify=weight, weight_decay=0.0, ema_decay=0.0)
        moved = [
            name
            for name, p in before.base.patch_embed.named_parameters()
            if not torch.equal(model.base.patch_embed.get_parameter(name), p)
        ]
        assert bool(moved) == bool(weight)
    weights = safetensors.torch.load_file(tmp_path / "1.0/checkpoints/00000006.safetensors")
    assert weights["classifier.weight"].shape == (2, before.plan.giv_dim)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "one_task", "options", "taught"),
    [
        (lambda: converted("low_rank"), False, {}, True),
        (lambda: converted("low_rank"), False, {"classify": 0.0}, False),
        (lambda: converted("low_rank"), True, {}, False),
        (lambda: converted("low_rank"), False, {"freeze_base": True}, False),
        (embedding, False, {}, True),
        (published, False, {}, False),
        (published, False, {"classify": 0.1}, True),
        (own_dac, False, {}, False),
        (frozen, False, {}, False),
        (lambda: converted("low_rank"), False, {"loss": squared}, False),
        (lambda: converted("low_rank"), False, {"loss": under_the_mean}, False),
        (lambda: seeded(Same), False, {}, False),
    ],
)
def test_the_second_loss_is_there_where_it_teaches(
    tmp_path: Path, make: Any, one_task: bool, options: dict[str, Any], taught: bool
) -> None:
    samples = Samples()
    if one_task:
        samples.tasks = (Task("a", "noise25"), Task("b", "noise25"))
    run(make(), tmp_path, samples, **options)
    weights = safetensors.torch.load_file(tmp_path / "checkpoints/00000006.safetensors")
    assert ("classifier.weight" in weights) == taught


@pytest.mark.slow
def test_its_weight_is_a_tenth_unless_given(tmp_path: Path) -> None:
    by_default, given, other = (
        run(converted("low_rank"), tmp_path / str(options), **options).losses
        for options in ({}, {"classify": 0.1}, {"classify": 1.0})
    )
    assert by_default == given != other


@pytest.mark.slow
def test_it_reads_the_first_run_on_the_images(tmp_path: Path) -> None:
    """Of a loss that runs the network on clean images too: their GIVs show no degradation."""

    def twice(network: nn.Module, degraded: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        losses = l1_loss(network, degraded, clean)
        network(clean[:1])
        return losses

    once = run(converted("low_rank"), tmp_path / "once", classify=0.1)
    assert run(converted("low_rank"), tmp_path / "twice", loss=twice, classify=0.1).losses == once.losses


@pytest.mark.slow
def test_a_run_with_both_is_resumed_exactly(tmp_path: Path) -> None:
    options: dict[str, Any] = {"classify": 0.1, "rates": {"hsn": 2.0}, "warm_up": 3, "calibration": 4}
    unbroken = run(converted("low_rank"), tmp_path / "unbroken", **options)
    broken_off(converted("low_rank"), tmp_path / "parts", **options)
    parts = run(converted("low_rank"), tmp_path / "parts", **options, resume=True)
    assert parts.losses == unbroken.losses
    assert all(torch.equal(v, parts.model.state_dict()[k]) for k, v in unbroken.model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "one_task", "options", "message"),
    [
        (lambda: seeded(Same), False, {}, "Same has no GIV"),
        (lambda: converted("low_rank"), True, {}, "same degradation"),
        (lambda: converted("low_rank"), False, {"freeze_base": True}, "before the split is frozen"),
        (frozen, False, {}, "before the split is frozen"),
        (lambda: converted("low_rank"), False, {"loss": under_the_mean}, "under GIVs of its own"),
    ],
)
def test_a_second_loss_that_teaches_nothing(
    tmp_path: Path, make: Any, one_task: bool, options: dict[str, Any], message: str
) -> None:
    samples = Samples()
    if one_task:
        samples.tasks = (Task("a", "noise25"), Task("b", "noise25"))
    with pytest.raises(OptionError, match=message):
        run(make(), tmp_path, samples, classify=0.1, **options)


def test_rates() -> None:
    settings = recipe(steps=20, warm_up=4, epochs=1, final_epochs=1)
    rates = [settings.rate(step, 20) for step in range(1, 21)]
    assert rates[:5] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])
    assert rates[10:] == [1e-4] * 10
    hair = converted("low_rank")
    optimizer = adamw(hair, recipe(rates={"hsn": 3.0, "boxes": 0.5}))
    relative = {id(p): group[RELATIVE_RATE] for group in optimizer.param_groups for p in group["params"]}
    assert {relative[id(p)] for p in hair.hsn.parameters()} == {3.0}
    assert {relative[id(p)] for p in hair.boxes.parameters()} == {0.5}
    assert {relative[id(p)] for p in hair.base.parameters()} == {1.0}


def test_runs_of_version_0_1_are_not_gone_on_with(tmp_path: Path) -> None:
    run(converted("low_rank"), tmp_path, steps=2)
    file = tmp_path / "checkpoints" / "00000002.safetensors"
    with safetensors.safe_open(file, "pt") as opened:
        about = opened.metadata()
    tensors = {name: t for name, t in safetensors.torch.load_file(file).items() if "standardization" not in name}
    safetensors.torch.save_file(tensors, file, about)
    with pytest.raises(TrainingError, match=r"hairify 0\.1.*do not go on"):
        run(converted("low_rank"), tmp_path, resume=True)
