"""Kernels by measurement in a run: the same is learned, the choices are kept, and a resumed run is exact by them."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_runs import GENTLE, Same, broken_off, run, seeded
from util import assert_close

from hairify import HairModel, hairify
from hairify.errors import OptionError
from hairify.functional import Tuning
from hairify.functional import _measuring as measuring
from hairify.functional._kernels import Case, Choice, able
from hairify.functional._measuring import Measured
from hairify.training import TrainingSettings
from hairify.training._tuning import TUNING

QUICK: dict[str, Any] = {"steps": 4, "calibration": 4, "classify": 0.0, **GENTLE}


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """The cases that are measured, without a clock: each measurement finds other kernels than the last."""
    cases: list[Case] = []
    counter = itertools.count(1)

    def measure(case: Case, device: torch.device) -> Measured:
        cases.append(case)
        names, n = able(case), next(counter)
        torch.rand(3)  # as if it drew random numbers
        times: Any = dict.fromkeys(names, 1.0)
        return Measured(Choice(names[n % len(names)], names[(n + 1) % len(names)]), case.by_rule(), times, times)

    monkeypatch.setattr(measuring, "_measured", measure)
    return cases


class Chain(nn.Module):
    """With batch statistics and dropout behind the split, whose state and draws must be those of an untuned run."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.last = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.last(self.middle(self.first(x)))


def small() -> HairModel:
    example, generator = torch.zeros(1, 3, 16, 16), torch.Generator().manual_seed(0)
    return hairify(seeded(Chain), split_at="first", example_inputs=example, generator=generator)


def test_a_tuned_run_learns_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = run(small().double(), tmp_path / "plain", **QUICK)
    with caplog.at_level(logging.WARNING):
        tuned = run(small().double(), tmp_path / "tuned", tune=True, **QUICK)
    assert tuned.losses == pytest.approx(plain.losses, rel=1e-10)
    for name, tensor in tuned.model.state_dict().items():
        assert_close(tensor, plain.model.state_dict()[name], 1e-9)
    kept = Tuning.load(tmp_path / "tuned" / TUNING)
    assert not (tmp_path / "plain" / TUNING).exists()
    assert kept.measured
    said = [message for message in caplog.messages if "Kernels were" in message]
    assert said == [
        f"Kernels were measured: in {kept.differing} of {len(kept.measured)} cases they are not those of the rules."
    ]


def test_a_resumed_run_goes_by_what_was_kept(tmp_path: Path, measured: list[Case]) -> None:
    """Exactly, where measuring anew would find other kernels."""
    options: dict[str, Any] = {**QUICK, "steps": 6, "tune": True}
    broken_off(small(), tmp_path / "parts", after=5, **options)
    kept, count = (tmp_path / "parts" / TUNING).read_bytes(), len(measured)
    parts = run(small(), tmp_path / "parts", resume=True, **options)
    assert (tmp_path / "parts" / TUNING).read_bytes() == kept
    assert len(measured) == count

    (tmp_path / "whole").mkdir()
    whole_tuning = Tuning.load(tmp_path / "parts" / TUNING)
    whole = run_with(whole_tuning, tmp_path / "whole", **options)
    assert parts.losses == whole.losses
    for name, tensor in parts.model.state_dict().items():
        assert torch.equal(tensor, whole.model.state_dict()[name])


def run_with(tuning: Tuning, output: Path, **options: Any) -> Any:
    """A run from the first step that finds the kernels of another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "_measured", lambda case, device: tuning.measured[case])
        return run(small(), output, **options)


def test_each_shape_of_batches_is_measured(
    tmp_path: Path, measured: list[Case], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(small(), tmp_path, tune=True, **{**QUICK, "progression": ("16x4@1", "24x2@1")})
    assert {(case.batch, *case.input[2:]) for case in measured} == {(4, 16, 16), (2, 24, 24)}
    assert set(Tuning.load(tmp_path / TUNING).measured) == set(measured)
    assert len(measured) == len(set(measured))
    assert sum("Kernels were measured" in message for message in caplog.messages) == 2


def test_precision_and_layout_are_those_of_the_training(tmp_path: Path, measured: list[Case]) -> None:
    run(small(), tmp_path, tune=True, mixed_precision="bf16", channels_last=True, **QUICK)
    assert {case.dtype for case in measured} == {torch.bfloat16}
    assert any(case.channels_last for case in measured)


def test_a_run_may_be_tuned_from_some_step_on_or_no_longer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(small(), tmp_path, **{**QUICK, "steps": 2})
    with caplog.at_level(logging.WARNING):
        run(small(), tmp_path, resume=True, tune=True, **{**QUICK, "steps": 4})
        run(small(), tmp_path, resume=True, **{**QUICK, "steps": 5})
    assert not any("`tune`" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:40], "It holds no tuning"),
        (lambda text: text.replace('"torch": "', '"torch": "0'), "of another device, PyTorch"),
    ],
)
def test_what_does_not_fit_is_measured_anew(
    damage: Any, said: str, tmp_path: Path, measured: list[Case], caplog: pytest.LogCaptureFixture
) -> None:
    run(small(), tmp_path, tune=True, **{**QUICK, "steps": 2})
    path, count = tmp_path / TUNING, len(measured)
    path.write_text(damage(path.read_text()))
    with caplog.at_level(logging.WARNING):
        run(small(), tmp_path, tune=True, resume=True, **QUICK)
    assert any("Kernels are measured anew" in message and said in message for message in caplog.messages)
    assert len(measured) == 2 * count
    assert len(Tuning.load(path).measured) == count


def test_one_image_at_a_time_leaves_nothing_to_choose(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run(small(), tmp_path, tune=True, accumulation=4, **QUICK)
    assert sum("nothing to `tune`" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("other", ["compile", "fsdp"])
def test_what_it_does_not_go_with_is_named(other: str) -> None:
    with pytest.raises(OptionError, match=f"`tune` (is on|and `{other}`)"):
        TrainingSettings(tune=True, **{other: True})


def test_a_network_that_is_not_converted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="`tune` is for networks converted by hairify; this Same is not"):
        run(seeded(Same), tmp_path, tune=True)
