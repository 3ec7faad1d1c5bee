"""What changes time and rounding, and nothing else; and rates of the parts of a network."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_runs import Plain, Same, broken_off, converted, recipe, run, seeded
from util import assert_close

from hairify import HairModel, hairify
from hairify.errors import TrainingError
from hairify.training import l1_loss
from hairify.training._compute import tf32
from hairify.training._optimizer import RELATIVE_RATE, adamw


def test_channels_last_changes_rounding_only(tmp_path: Path) -> None:
    plain = run(seeded(Same), tmp_path / "plain")
    layouts: list[bool] = []

    def looking(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
        assert isinstance(network, Same)
        layouts.append(
            all(t.is_contiguous(memory_format=torch.channels_last) for t in (degraded, network.first.weight))
            and not degraded.is_contiguous()
        )
        return l1_loss(network, degraded, clean)

    last = run(seeded(Same), tmp_path / "last", channels_last=True, loss=looking)
    assert all(layouts[1:])  # the first is a trial, of a copy
    assert last.losses == pytest.approx(plain.losses, rel=1e-4)
    assert_close(last.model.last.weight, plain.model.last.weight, 1e-3)
    assert last.model.last.weight.is_contiguous()  # the network that was given keeps its layout


class Prompted(Same):
    """Has weights of five dimensions, as PromptIR's prompts are, and others."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts = nn.Parameter(torch.zeros(1, 2, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.prompts.mean(1)


def test_channels_last_leaves_weights_of_five_dimensions_alone(tmp_path: Path) -> None:
    plain, last = (run(seeded(Prompted), tmp_path / str(on), steps=2, channels_last=on) for on in (False, True))
    assert last.losses == pytest.approx(plain.losses, rel=1e-4)


def test_channels_last_is_resumed_exactly(tmp_path: Path) -> None:
    whole = run(seeded(Plain), tmp_path / "whole", channels_last=True)
    broken_off(seeded(Plain), tmp_path / "parts", channels_last=True)
    parts = run(seeded(Plain), tmp_path / "parts", channels_last=True, resume=True)
    assert parts.losses == whole.losses


def test_a_layout_may_be_another_when_a_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(seeded(Same), tmp_path, steps=2)
    with caplog.at_level(logging.WARNING):
        assert run(seeded(Same), tmp_path, steps=4, channels_last=True, resume=True).steps == 4
    assert any("`channels_last` was False, is True" in message for message in caplog.messages)


def test_tf32_is_as_it_was_afterwards() -> None:
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn

    def precisions() -> tuple[Any, Any]:
        if hasattr(cudnn, "conv"):
            return matmul.fp32_precision, cudnn.conv.fp32_precision
        return matmul.allow_tf32, cudnn.allow_tf32

    before = precisions()
    with tf32(False):
        assert precisions() == before
    with tf32(True):
        assert precisions() in (("tf32", "tf32"), (True, True))
    assert precisions() == before


def test_a_run_allows_tf32_while_it_lasts(tmp_path: Path) -> None:
    seen: list[bool] = []

    def looking(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
        matmul: Any = torch.backends.cuda.matmul
        newer = hasattr(torch.backends.cudnn, "conv")
        seen.append(matmul.fp32_precision == "tf32" if newer else matmul.allow_tf32)
        return l1_loss(network, degraded, clean)

    for on in (False, True):
        seen.clear()
        run(seeded(Same), tmp_path / str(on), steps=1, tf32=on, loss=looking)
        assert seen[-1] is on


def small() -> HairModel:
    """Few layers: compiling takes a second or more for each."""

    def make() -> nn.Module:
        layers = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(2)]
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers, nn.Conv2d(4, 3, 3, padding=1))

    return hairify(seeded(make), split_at="0", generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the second loss reads its GIV, and patches grow. Code is left ungenerated: that takes minutes here."""
    compiled: list[nn.Module] = []

    def without_code(network: nn.Module) -> None:
        compiled.append(network)
        whole(network, backend="aot_eager")

    whole = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", without_code)
    options: dict[str, Any] = {"steps": 4, "learning_rate": 1e-5, "final_learning_rate": 1e-5, "calibration": 4}
    options |= {"progression": ("16x4@1", "24x2@1"), "classify": 0.1}
    plain, fast = (run(small(), tmp_path / str(on), compile=on, **options) for on in (False, True))
    assert [type(network) for network in compiled] == [HairModel]
    assert fast.losses == pytest.approx(plain.losses, rel=1e-4)
    assert fast.model.state_dict().keys() == plain.model.state_dict().keys()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile writes C++")
def test_with_code_that_is_compiled(tmp_path: Path) -> None:
    plain, fast = (run(seeded(Same), tmp_path / str(on), compile=on, steps=3) for on in (False, True))
    assert fast.losses == pytest.approx(plain.losses, rel=1e-4)


@pytest.mark.slow
def test_a_compiler_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(graph: Any, inputs: Any) -> Any:
        raise OSError("no such file: g++")

    whole = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda network: whole(network, backend=no_compiler))
    with pytest.raises(TrainingError, match=r"(?s)torch.compile fails on the network: .*g\+\+.*Leave `compile` off"):
        run(seeded(Same), tmp_path, compile=True)


def test_rates_of_parts() -> None:
    hair = converted("low_rank")
    groups = adamw(hair, recipe(rates={"base": 0.1, "hsn": 3.0})).param_groups
    relative = {id(p): group[RELATIVE_RATE] for group in groups for p in group["params"]}
    for part, expected in ((hair.base, 0.1), (hair.hsn, 3.0), (hair.boxes, 1.0)):
        assert {relative[id(p)] for p in part.parameters()} == {expected}
    assert relative.keys() == {id(p) for p in hair.parameters()}
    assert {group["weight_decay"] for group in groups if group[RELATIVE_RATE] == 1.0} == {1e-4, 0.0}


def test_a_part_learns_at_its_rate(tmp_path: Path) -> None:
    """AdamW's first step moves each weight by its rate, whatever the gradient."""
    before = converted("low_rank")
    options: dict[str, Any] = {"steps": 1, "weight_decay": 0.0, "ema_decay": 0.0, "calibration": 0, "classify": 0.0}
    model: Any = run(converted("low_rank"), tmp_path, rates={"base": 0.25}, **options).model
    moved = (model.base.patch_embed.proj.weight - before.base.patch_embed.proj.weight).detach().abs()
    assert float(moved.median()) == pytest.approx(0.25e-4, rel=0.02)  # of one step, the rate is the final one
    boxes = [(a - b).abs() for a, b in zip(model.boxes.parameters(), before.boxes.parameters(), strict=True)]
    largest = max(float(one.max()) for one in boxes)
    assert largest == pytest.approx(1e-4, rel=0.02)


def test_a_part_that_a_network_does_not_have_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run(seeded(Same), tmp_path, steps=1, rates={"hsn": 3.0, "base": 0.5})
    assert any("`rates` has hsn, which this Same does not have" in message for message in caplog.messages)
