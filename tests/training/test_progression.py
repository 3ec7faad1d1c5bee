"""Patches that grow: which samples each step takes, at which size; resumed exactly, and shared among processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_runs import Plain, Same, Samples, broken_off, run, seeded

from hairify.errors import OptionError, TrainingError
from hairify.training import TrainingSettings, l1_loss, train
from hairify.training._progression import Batches, Stage, parse_stage, steps_for

GROWING = ("8x6@1", "12x4@1", "16x2@2")  # of 8 steps: two of six, two of four, four of two


Step = tuple[int, "int | None", int]


def walked(stages: list[Stage], steps: int) -> list[Step]:
    """First sample, patch and batch of each step, one after the other."""
    total, reached = sum(stage.share for stage in stages), 0.0
    found: list[Step] = []
    taken = 0
    for stage in stages:
        reached += stage.share
        while len(found) < round(steps * reached / total):
            found.append((taken, stage.patch_size, stage.batch_size))
            taken += stage.batch_size
    return found


@pytest.mark.parametrize("steps", [1, 2, 7, 8, 100])
@pytest.mark.parametrize("shares", [(1, 1, 2), (92, 64, 48), (0.5, 3.25, 1)])
def test_steps_take_samples_one_after_the_other(steps: int, shares: tuple[float, ...]) -> None:
    stages = [Stage(8 * (i + 1), 6 - 2 * i, share) for i, share in enumerate(shares)]
    batches = Batches(stages, steps)
    got = [
        (batches.first_sample(s), batches.stage(s).patch_size, batches.stage(s).batch_size) for s in range(1, steps + 1)
    ]
    assert got == walked(stages, steps)


def test_processes_and_micro_batches_share_a_step() -> None:
    batches = Batches([parse_stage("8x12@1"), parse_stage("16x6@1")], 4)
    for step, (first, patch, size) in enumerate([(0, 8, 12), (12, 8, 12), (24, 16, 6), (30, 16, 6)], start=1):
        parts = [batches.micro_batches(step, process, 2, 3) for process in range(2)]
        assert [len(one) for process in parts for one in process] == [size // 6] * 6
        draws = [draw for process in parts for one in process for draw in one]
        assert draws == [(index, patch) for index in range(first, first + size)]


def test_steps_of_so_many_epochs() -> None:
    """Of 8 steps, 2·6 + 2·4 + 4·2 = 28 images: 3.5 for each."""
    settings = TrainingSettings(progression=GROWING, epochs=6, final_epochs=1)
    assert settings.total_steps(epoch=4) == steps_for(settings.stages(), 28) == 8
    assert settings.total_steps(epoch=40) == 80


def test_a_run_is_of_these_samples_at_these_sizes(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def looking(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
        seen.append(clean)
        return l1_loss(network, degraded, clean)

    run(seeded(Same), tmp_path, loss=looking, steps=8, progression=GROWING)
    tried, taken = seen[:-8], seen[-8:]
    assert {one.shape[-1] for one in tried} == {8, 12, 16}  # before the first step
    first = 0
    for clean, (count, size) in zip(taken, [(6, 8)] * 2 + [(4, 12)] * 2 + [(2, 16)] * 4, strict=True):
        expected = [Samples().sized(index, size)["clean"] for index in range(first, first + count)]
        assert torch.equal(clean, torch.stack(expected))
        first += count


def test_accumulation_and_workers_change_rounding_only(tmp_path: Path) -> None:
    whole, parts = (
        run(seeded(Same), tmp_path / str(n), steps=8, progression=GROWING, accumulation=n, workers=n - 1)
        for n in (1, 2)
    )
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)


@pytest.mark.parametrize("after", [1, 3, 5, 7])
def test_it_is_resumed_exactly(after: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 8, "progression": GROWING, "save_every": 1}
    whole = run(seeded(Plain), tmp_path / "whole", **options)
    broken_off(seeded(Plain), tmp_path / "parts", after=after + 2, **options)  # beside one trial more for each size
    parts = run(seeded(Plain), tmp_path / "parts", **options, resume=True)
    assert parts.losses == whole.losses
    assert all(torch.equal(v, parts.model.state_dict()[k]) for k, v in whole.model.state_dict().items())


def test_a_run_that_goes_on_has_the_stages_it_was_begun_with(tmp_path: Path) -> None:
    run(seeded(Same), tmp_path, steps=4, progression=GROWING)
    with pytest.raises(TrainingError, match=r"`progression` was \['8x6@1', .*\], is \[\]"):
        run(seeded(Same), tmp_path, steps=8, resume=True)
    with pytest.raises(TrainingError, match="`steps` was 4, is 8"):
        run(seeded(Same), tmp_path, steps=8, progression=GROWING, resume=True)


def test_sizes_that_a_network_cannot_take_are_found_before_the_first_step(tmp_path: Path) -> None:
    class Windows(Same):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).unflatten(2, (-1, 8)).flatten(2, 3)

    with pytest.raises(TrainingError, match=r"cannot be trained on patches of 12×12 pixels"):
        run(seeded(Windows), tmp_path / "run", steps=8, progression=GROWING)
    assert not (tmp_path / "run").exists()


def test_batches_that_processes_cannot_share(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"`progression` has batches of 2, which 1 process\(es\) with 4 micro"):
        train(
            seeded(Same),
            Samples(),  # type: ignore[arg-type]
            TrainingSettings(progression=("8x4@1", "16x2@1"), accumulation=4, cpu=True),
            output=tmp_path,
        )
