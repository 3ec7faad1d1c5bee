"""One process: what a run computes, keeps, and says."""

from __future__ import annotations

import dataclasses
import errno
import io
import itertools
import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn
from training_runs import Experts, Plain, Same, Samples, Skipping, broken_off, converted, run, seeded
from util import assert_close, assert_differs

from hairify import hairify
from hairify.errors import DataError, OptionError, TrainingError
from hairify.models import restormer
from hairify.training import StepReport, TrainedRun, TrainingSettings, l1_loss
from hairify.training import _sharding as sharding
from hairify.training._logs import RunLog


def entries(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def assert_same_run(got: TrainedRun, expected: TrainedRun) -> None:
    assert got.losses == expected.losses
    assert got.steps == expected.steps
    for (name, mine), other in zip(got.model.state_dict().items(), expected.model.state_dict().values(), strict=True):
        assert torch.equal(mine, other), name


def batch(samples: Samples, step: int, size: int) -> tuple[Tensor, Tensor]:
    drawn = [samples[index] for index in range(step * size, (step + 1) * size)]
    return torch.stack([one["degraded"] for one in drawn]), torch.stack([one["clean"] for one in drawn])


# What it computes


def test_it_is_the_recipe(tmp_path: Path) -> None:
    """AdamW with the rates of the schedule on consecutive samples, and the average of its weights, written out."""
    network, samples, average = seeded(Same), Samples(), {}
    trained = [(name, p) for name, p in network.named_parameters() if not name.startswith("never")]
    optimizer = torch.optim.AdamW([p for _, p in trained], betas=(0.9, 0.999), weight_decay=1e-4)
    average = {name: p.detach().clone() for name, p in trained}
    losses = []
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 1e-3 if step < 3 else 1e-4
        degraded, clean = batch(samples, step, 4)
        loss = (network(degraded) - clean).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in trained], 0.2)
        optimizer.step()
        losses.append(loss.item())
        kept = min(0.999, (step + 2) / (step + 11))
        average = {name: kept * average[name] + (1 - kept) * p.detach() for name, p in trained}
    model = seeded(Same)
    result = run(model, tmp_path, clip_norm=0.2)
    assert result.model is model
    assert result.losses == pytest.approx(losses, rel=1e-5)
    assert not result.interrupted
    assert result.steps == 6
    state = model.state_dict()
    for name, value in average.items():
        assert_close(state[name], value, 1e-4)
    assert_differs(state["last.weight"], seeded(Same).last.weight)
    assert torch.equal(state["never.weight"], seeded(Same).never.weight)
    assert not any(module.training for module in model.modules())


def test_without_an_average_the_last_weights_are_the_result(tmp_path: Path) -> None:
    last = run(seeded(Same), tmp_path / "last", ema_decay=0.0)
    checkpoint = safetensors.torch.load_file(tmp_path / "last/checkpoints/00000006.safetensors")
    for name, value in last.model.state_dict().items():
        assert torch.equal(value, checkpoint[f"model.{name}"])
    assert_differs(last.model.last.weight, run(seeded(Same), tmp_path / "average").model.last.weight, 1e-5)


def test_accumulation_changes_rounding_only(tmp_path: Path) -> None:
    whole, parts = (run(seeded(Same), tmp_path / str(n), accumulation=n) for n in (1, 4))
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)
    assert_close(parts.model.last.weight, whole.model.last.weight, 1e-4)


def test_workers_change_nothing(tmp_path: Path) -> None:
    assert_same_run(run(seeded(Plain), tmp_path / "2", workers=2), run(seeded(Plain), tmp_path / "0"))


def test_blocks_checkpointed_and_half_precision(tmp_path: Path) -> None:
    exact, checkpointed, half = (
        run(converted(), tmp_path / name, steps=2, **options)
        for name, options in (
            ("exact", {}),
            ("checkpointed", {"checkpoint_blocks": True}),
            ("half", {"mixed_precision": "bf16"}),
        )
    )
    assert checkpointed.losses == pytest.approx(exact.losses, rel=1e-5)
    assert half.losses == pytest.approx(exact.losses, rel=2e-2)
    assert half.losses != exact.losses
    assert all(p.dtype == torch.float32 for p in half.model.parameters())


def test_frozen_base(tmp_path: Path) -> None:
    """Its weights and its batch statistics stay; what conversion added is trained, statistics of the DAC included."""

    def dac(in_channels: int, giv_dim: int) -> nn.Module:
        return nn.Sequential(
            nn.BatchNorm2d(in_channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, giv_dim)
        )

    network = nn.Sequential(Plain(), nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Sequential(Block(), Block()))
    model = hairify(nn.Sequential(network, nn.ConvTranspose2d(8, 3, 2, stride=2)), split_at="0.1", dac=dac)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    moved = moved_by(run(model, tmp_path / "frozen", freeze_base=True, ema_decay=0.0), before)
    assert {"dac.0.running_mean", "dac.0.weight"} <= moved
    assert {name.partition(".")[0] for name in moved} <= {"dac", "standardization", "hsn", "boxes"}
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.load_state_dict(before)
    moved = moved_by(run(model, tmp_path / "free", ema_decay=0.0), before)
    assert {"base.0.0.norm.running_mean", "base.0.0.first.weight"} <= moved


class Block(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1))


def moved_by(result: TrainedRun, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in result.model.state_dict().items() if not torch.equal(value, before[name])}


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 3, padding=1)
            self.last = nn.Conv2d(3, 3, 3, padding=1)
            self.last.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x))

    unbroken = run(seeded(Tied), tmp_path / "unbroken")
    assert unbroken.model.last.weight is unbroken.model.first.weight
    broken_off(seeded(Tied), tmp_path / "broken")
    assert_same_run(run(seeded(Tied), tmp_path / "broken", resume=True), unbroken)


def test_a_loss_of_ones_own_may_call_the_network_in_any_way(tmp_path: Path) -> None:
    def consistent(network: Any, degraded: Tensor, clean: Tensor) -> Tensor:
        giv = network.giv(degraded)
        with network.conditioned_on(giv):
            return l1_loss(network, degraded, clean) + l1_loss(network, clean, clean)

    assert len(run(converted(), tmp_path, steps=2, loss=consistent).losses) == 2


def test_what_is_the_callers_stays_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    handler = signal.getsignal(signal.SIGTERM)
    model = seeded(Plain).train()
    run(model, tmp_path, steps=1)
    assert torch.equal(torch.rand(3), expected)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_no_steps(tmp_path: Path) -> None:
    result = run(seeded(Same), tmp_path, steps=0)
    assert (result.steps, result.losses, result.interrupted) == (0, [], False)
    assert torch.equal(result.model.last.weight, seeded(Same).last.weight)


# What it keeps


def test_a_run_broken_off_and_resumed_is_an_unbroken_one(tmp_path: Path) -> None:
    unbroken = run(seeded(Plain), tmp_path / "unbroken")
    output = tmp_path / "broken"
    broken_off(seeded(Plain), output)
    assert [entry["step"] for entry in entries(output)] == [1, 2, 3, 4, 5]
    resumed = run(seeded(Plain), output, resume=True, workers=1, accumulation=1, validate_every=3)
    assert_same_run(resumed, unbroken)
    assert [entry["step"] for entry in entries(output)] == [1, 2, 3, 4, 5, 6]
    assert [entry["loss"] for entry in entries(output)] == unbroken.losses


@pytest.mark.parametrize("make", [Skipping, Experts])
def test_what_one_pass_does_not_use_is_trained_and_resumed(tmp_path: Path, make: type[nn.Module]) -> None:
    unbroken = run(seeded(make), tmp_path / "unbroken", steps=8)
    broken_off(seeded(make), tmp_path / "broken", steps=8)
    assert_same_run(run(seeded(make), tmp_path / "broken", steps=8, resume=True), unbroken)
    before = seeded(make).state_dict()
    still = {name for name, value in unbroken.model.state_dict().items() if torch.equal(value, before[name])}
    assert still == ({"experts.3.weight", "experts.3.bias"} if make is Experts else set())


def test_a_run_in_which_hairify_0_1_froze_a_part_is_gone_on_with(tmp_path: Path) -> None:
    """It did so where one pass did not reach it; then there is no average, and no state of the optimizer."""
    run(seeded(Experts), tmp_path, steps=2)
    file = tmp_path / "checkpoints/00000002.safetensors"
    with safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    kept = {name: value for name, value in safetensors.torch.load_file(file).items() if frozen_then(name)}
    safetensors.torch.save_file(kept, file, metadata)
    resumed = run(seeded(Experts), tmp_path, steps=12, resume=True)
    for name, value in resumed.model.named_parameters():
        assert torch.equal(value, seeded(Experts).get_parameter(name)) == name.startswith("experts.3")


def frozen_then(name: str) -> bool:
    return name.startswith("model.") or ".experts." not in name


def test_more_steps_after_the_last(tmp_path: Path) -> None:
    first = run(seeded(Plain), tmp_path, steps=4)
    assert run(seeded(Plain), tmp_path, steps=4, resume=True).losses == first.losses
    more = run(seeded(Plain), tmp_path, steps=6, resume=True)
    assert more.losses[:4] == first.losses
    assert len(more.losses) == 6
    with pytest.raises(TrainingError, match="6 steps are taken already, but the run is to have 5"):
        run(seeded(Plain), tmp_path, steps=5, resume=True)


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run(seeded(Same), tmp_path, steps=7)
    assert names(tmp_path) == ["00000006.safetensors", "00000007.safetensors"]


def names(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 99])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, damage: Any) -> None:
    unbroken = run(seeded(Plain), tmp_path)
    newest = tmp_path / "checkpoints/00000006.safetensors"
    newest.write_bytes(damage(newest.read_bytes()))
    console = Console(file=io.StringIO(), width=1000)
    resumed = run(seeded(Plain), tmp_path, resume=True, console=console)
    assert_same_run(resumed, unbroken)
    assert f"{newest} is damaged" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "Going on from step 4" in console.file.getvalue()  # type: ignore[attr-defined]
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TrainingError, match=r"no checkpoint that can be read.*00000004.safetensors is damaged"):
        run(seeded(Plain), tmp_path, resume=True)


def test_a_network_whose_nets_have_another_limit_is_not_gone_on_with(tmp_path: Path) -> None:
    """The limit is no part of the weights, so they would fit, and compute something else."""
    unlimited = dataclasses.replace(converted("low_rank").plan, hsn_limit=None)
    network = seeded(lambda: restormer(dim=8, num_blocks=(1, 1, 1, 2), num_refinement_blocks=1))
    run(hairify(network, plan=unlimited), tmp_path, steps=2)
    with pytest.raises(TrainingError, match=r"`hsn_limit` was None, is 2\.0"):
        run(converted("low_rank"), tmp_path, steps=4, resume=True)


def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no checkpoint that can be read"):
        run(seeded(Same), tmp_path, resume=True)
    run(seeded(Same), tmp_path, steps=2)
    with pytest.raises(TrainingError, match=r"holds a run already .*`resume`, or give another `output`"):
        run(seeded(Same), tmp_path, steps=2)
    with pytest.raises(TrainingError, match="`batch_size` was 4, is 8; `seed` was 0, is 1"):
        run(seeded(Same), tmp_path, steps=2, resume=True, seed=1, batch_size=8)
    other = Samples()
    other.tasks = other.tasks[:1]
    with pytest.raises(TrainingError, match="`tasks` was"):
        run(seeded(Same), tmp_path, other, steps=2, resume=True)
    with pytest.raises(TrainingError, match="another network than this Plain"):
        run(seeded(Plain), tmp_path, steps=2, resume=True)


def test_what_may_be_adjusted_on_resuming_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(seeded(Same), tmp_path, steps=2)
    with caplog.at_level(logging.WARNING):
        run(seeded(Same), tmp_path, steps=6, resume=True, learning_rate=5e-4, clip_norm=1.0)
    assert "From step 3 on: `learning_rate` was 0.001, is 0.0005." in caplog.messages
    assert "From step 3 on: `clip_norm` was None, is 1.0." in caplog.messages
    assert [entry["learning_rate"] for entry in entries(tmp_path)] == [1e-3, 1e-4, 5e-4, 1e-4, 1e-4, 1e-4]


def test_on_start_is_called_once_all_is_checked(tmp_path: Path) -> None:
    started: list[bool] = []
    run(seeded(Same), tmp_path, steps=2, on_start=lambda: started.append((tmp_path / "log.jsonl").exists()))
    assert started == [False]
    with pytest.raises(TrainingError, match="`batch_size` was 4, is 8"):
        run(seeded(Same), tmp_path, steps=2, resume=True, batch_size=8, on_start=lambda: started.append(True))
    assert started == [False]


def test_a_run_killed_before_its_first_checkpoint_can_be_started_again(tmp_path: Path) -> None:
    broken_off(seeded(Same), tmp_path / "again", after=1)
    assert len(entries(tmp_path / "again")) == 1
    again = run(seeded(Same), tmp_path / "again")
    assert_same_run(again, run(seeded(Same), tmp_path / "other"))
    assert len(entries(tmp_path / "again")) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_with_a_checkpoint(tmp_path: Path, number: int) -> None:
    class Signalling(Samples):
        def __getitem__(self, index: int) -> dict[str, Any]:
            if index == 9 and signalling:
                os.kill(os.getpid(), number)
            return super().__getitem__(index)

    signalling = True
    stopped = run(seeded(Plain), tmp_path / "stopped", Signalling(), save_every=0)
    assert (stopped.interrupted, stopped.steps) == (True, 3)
    assert names(tmp_path / "stopped") == ["00000003.safetensors"]
    signalling = False
    assert_same_run(run(seeded(Plain), tmp_path / "stopped", resume=True), run(seeded(Plain), tmp_path / "unbroken"))


# What it says


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    def breaking(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
        calls.append(None)
        losses = l1_loss(network, degraded, clean)
        return losses * torch.tensor([1.0, float("nan")]).repeat(2) if len(calls) == 4 else losses[:4]

    calls: list[None] = []
    model = seeded(Same)
    expected = (
        r"loss of step 3 is not finite, on images with haze \(9.png, 11.png\)\..*00000002.safetensors.*"
        "`learning_rate`, `clip_norm`"
    )
    with pytest.raises(TrainingError, match=expected):
        run(model, tmp_path, loss=breaking)
    assert names(tmp_path) == ["00000002.safetensors"]
    assert [entry["step"] for entry in entries(tmp_path)] == [1, 2]
    assert torch.equal(model.last.weight, seeded(Same).last.weight)
    assert_same_run(run(seeded(Same), tmp_path, resume=True), run(seeded(Same), tmp_path / "unbroken"))


def test_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    def rooted(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
        return (network(degraded) * 0).sqrt().mean(dim=(1, 2, 3))

    with pytest.raises(
        TrainingError, match=r"though the loss is; its images are 0.png, 1.png, 2.png, 3.png\..*no checkpoint yet"
    ):
        run(seeded(Same), tmp_path, loss=rooted)


def test_no_more_than_some_images_of_a_step_are_named(tmp_path: Path) -> None:
    def broken(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
        calls.append(None)
        return l1_loss(network, degraded, clean) / (0.0 if len(calls) > 1 else 1.0)

    calls: list[None] = []
    with pytest.raises(TrainingError, match=r"\(0.png, 1.png, 2.png, 3.png, 4.png, 5.png, 6.png, 7.png and 4 more\)"):
        run(seeded(Same), tmp_path, loss=broken, batch_size=12, accumulation=3)


def test_half_precision_that_never_finds_a_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 leaves out updates whose gradients are not finite, while its scale falls. A run of nothing else ends."""

    def scaled_on_cpu(settings: TrainingSettings) -> Accelerator:
        accelerator = Accelerator(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu")
        return accelerator

    def breaking(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
        calls.append(None)
        losses = l1_loss(network, degraded, clean)
        return losses + (network(degraded) * 0).sqrt().mean() if breaks(len(calls)) else losses

    monkeypatch.setattr(sharding, "accelerator_for", scaled_on_cpu)
    calls: list[None] = []
    breaks: Callable[[int], bool] = lambda call: call == 3  # noqa: E731
    reports: list[StepReport] = []
    kept = run(
        seeded(Same),
        tmp_path / "one",
        loss=breaking,
        mixed_precision="fp16",
        save_every=1,
        keep_checkpoints=9,
        on_step=reports.append,
    )
    assert len(reports) == kept.steps == 6
    weights = [
        safetensors.torch.load_file(tmp_path / f"one/checkpoints/{step:08d}.safetensors") for step in range(1, 7)
    ]
    changed = [
        {part: not torch.equal(a[f"{part}.last.weight"], b[f"{part}.last.weight"]) for part in ("model", "average")}
        for a, b in itertools.pairwise(weights)
    ]
    assert sum(change == {"model": False, "average": False} for change in changed) == 1
    assert sum(change == {"model": True, "average": True} for change in changed) == 4
    breaks = lambda call: True  # noqa: E731
    with pytest.raises(TrainingError, match=r"gradients of the last 30 steps to 30 are not finite.*`mixed_precision`"):
        run(seeded(Same), tmp_path / "all", loss=breaking, mixed_precision="fp16", steps=40)


@pytest.mark.parametrize("kind", ["checkpoint", "log"])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def full(*arguments: Any) -> None:
        if kind == "checkpoint" and (tmp_path / "checkpoints/00000002.safetensors").exists():
            Path(arguments[1]).write_bytes(b"part")
            raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
        if kind == "log" and arguments[1].step == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*arguments)

    where, name = (safetensors.torch, "save_file") if kind == "checkpoint" else (RunLog, "step")
    original = getattr(where, name)
    monkeypatch.setattr(where, name, full)
    file = "00000004.safetensors" if kind == "checkpoint" else "log.jsonl"
    expected = rf"{file} cannot be written.*[Nn]o space left.*MiB are free.*00000002.safetensors is as it was"
    with pytest.raises(TrainingError, match=expected):
        run(seeded(Same), tmp_path)
    assert names(tmp_path) == ["00000002.safetensors"]
    monkeypatch.undo()
    assert_same_run(run(seeded(Same), tmp_path, resume=True), run(seeded(Same), tmp_path / "unbroken"))


def test_unreadable_images_are_counted_and_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = ("b: old.png", "truncated: 3 of 9")
    samples = Samples(unreadable={3: [bad], 8: [bad, ("c.png", "c.png is empty")]})
    reports: list[StepReport] = []
    with caplog.at_level(logging.WARNING):
        result = run(seeded(Same), tmp_path, samples, on_step=reports.append)
    assert result.unreadable == {"b: old.png": "truncated: 3 of 9", "c.png": "c.png is empty"}
    assert [report.unreadable for report in reports] == [1, 1, 2, 2, 2, 2]
    told = [message for message in caplog.messages if message.startswith("Left out")]
    assert told == ["Left out: b: old.png: truncated: 3 of 9", "Left out: c.png is empty"]


def test_photographs(tmp_path: Path) -> None:
    """Real samples, of files one of which is cut off."""
    from PIL import Image

    from hairify.data.datasets import Task
    from hairify.data.samples import TrainingSamples

    (tmp_path / "photographs").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photographs/{number}.png")
    cut = tmp_path / "photographs/1.png"
    cut.write_bytes(cut.read_bytes()[:500])
    photographs = tuple(sorted((tmp_path / "photographs").iterdir()))
    samples = TrainingSamples([Task(name, name, photographs, None) for name in ("noise25", "haze")], 16, 0, 2**20)
    run(seeded(Same), tmp_path / "unbroken", samples, workers=2)
    broken_off(seeded(Same), tmp_path / "broken", samples=samples)
    result = run(seeded(Same), tmp_path / "broken", samples, resume=True)
    assert [entry["loss"] for entry in entries(tmp_path / "unbroken")] == result.losses
    again = run(seeded(Same), tmp_path / "again", samples)
    assert list(again.unreadable) == [str(cut)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_task_without_any_readable_image(tmp_path: Path, workers: int) -> None:
    class Hopeless(Samples):
        def __getitem__(self, index: int) -> dict[str, Any]:
            if index == 5:
                raise DataError("None of the 3 images of 'haze' can be used.")
            return super().__getitem__(index)

    with pytest.raises(DataError, match=r"^None of the 3 images of 'haze' can be used\.$"):
        run(seeded(Same), tmp_path, Hopeless(), workers=workers)
    assert not multiprocessing.active_children()


def test_what_is_logged(tmp_path: Path) -> None:
    reports: list[StepReport] = []
    result = run(seeded(Same), tmp_path, on_step=reports.append)
    logged = entries(tmp_path)
    assert [entry["loss"] for entry in logged] == result.losses == [report.loss for report in reports]
    for entry in logged:
        assert set(entry) == {"step", "loss", "losses", "learning_rate", "seconds"}
        assert set(entry["losses"]) == {"noise25", "haze"}
        assert sum(entry["losses"].values()) / 2 == pytest.approx(entry["loss"], rel=1e-6)
    assert [entry["learning_rate"] for entry in logged] == [1e-3] * 3 + [1e-4] * 3
    seconds = [entry["seconds"] for entry in logged]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= result.seconds


def test_validation(tmp_path: Path) -> None:
    """It sees the averaged weights, in evaluation mode, and neither gradients nor the training notice it."""
    seen = []

    def validate(network: nn.Module) -> dict[str, dict[str, float]]:
        assert not torch.is_grad_enabled()
        assert not any(module.training for module in network.modules())
        torch.rand(5)
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        return {"BSD68 noise25": {"psnr": 20.0 + len(seen), "ssim": 0.5}}

    result = run(seeded(Plain), tmp_path / "with", validate=validate, validate_every=3)
    scores = [entry for entry in entries(tmp_path / "with") if "validation" in entry]
    assert scores == [
        {"step": step, "validation": {"BSD68 noise25": {"psnr": psnr, "ssim": 0.5}}, "best": True}
        for step, psnr in ((3, 21.0), (6, 22.0))
    ]
    assert_same_run(result, run(seeded(Plain), tmp_path / "without"))
    half = run(seeded(Plain), tmp_path / "half", steps=3, final_epochs=0)
    for name, value in half.model.state_dict().items():
        assert torch.equal(seen[0][name], value), name
        assert torch.equal(seen[1][name], result.model.state_dict()[name]), name


def test_tensorboard(tmp_path: Path) -> None:
    """Steps that were taken twice, since a run was broken off, are shown once."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    broken_off(seeded(Same), tmp_path, log_with=("tensorboard",))
    options: dict[str, Any] = {"validate": lambda _: {"SOTS": {"psnr": 25.0, "ssim": 0.75}}, "validate_every": 6}
    result = run(seeded(Same), tmp_path, resume=True, log_with=("tensorboard",), **options)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss/all", "loss/haze", "loss/noise25", "learning_rate", "psnr/SOTS"} <= set(events.Tags()["scalars"])
    shown = events.Scalars("loss/all")
    assert [scalar.step for scalar in shown] == [1, 2, 3, 4, 5, 6]
    assert [scalar.value for scalar in shown] == pytest.approx(result.losses, rel=1e-6)
    assert events.Scalars("ssim/SOTS")[0].value == 0.75


def test_progress_is_shown_where_there_is_a_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    score = {"SOTS": {"psnr": 25.123, "ssim": 0.75}}
    samples = Samples(unreadable={0: [("b.png", "empty")]})
    run(seeded(Same), tmp_path / "shown", samples, console=console, validate=lambda _: score, validate_every=3)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("6/6", "haze 0.", "noise25 0.", "images/s", "step 3: SOTS psnr 25.12 ssim 0.750", "1 unreadable"):
        assert text in shown
    assert "2 parameters got no gradient in a trial, and learn when a step uses them: never.weight" in shown
    assert "Left out: b.png: empty" in shown
    run(seeded(Plain), tmp_path / "quiet")
    assert capsys.readouterr() == ("", "")


def test_what_does_not_fit(tmp_path: Path) -> None:
    for name in ("freeze_base", "checkpoint_blocks"):
        with pytest.raises(OptionError, match=f"`{name}` is for networks converted by hairify; this Same is not"):
            run(seeded(Same), tmp_path, **{name: True})
    with pytest.raises(OptionError, match="'fp16', which needs a GPU"):
        run(seeded(Same), tmp_path, mixed_precision="fp16")
    with pytest.raises(OptionError, match=r"`fsdp` shards .* 1 process\(es\) train on cpu"):
        run(seeded(Same), tmp_path, fsdp=True)
    with pytest.raises(TrainingError, match=r"shape \(\) for 4 images; needed is one number for each, \(4,\)"):
        run(seeded(Same), tmp_path, loss=lambda network, x, y: (network(x) - y).abs().mean())
    with pytest.raises(TrainingError, match="nothing to train"):
        run(seeded(Same).requires_grad_(False), tmp_path)
    assert not tmp_path.joinpath("checkpoints").exists()


def test_nothing_is_left_in_accelerate(tmp_path: Path) -> None:
    """Runs with other settings can follow, as an Accelerator of the caller's own can."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    run(seeded(Same), tmp_path / "half", steps=1, mixed_precision="bf16")
    own = Accelerator(cpu=True, mixed_precision="no")
    run(seeded(Same), tmp_path / "beside", steps=1)
    assert own.mixed_precision == "no"
    with pytest.raises(OptionError, match="accelerate does not accept these settings"):
        run(seeded(Same), tmp_path / "other", steps=1, mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert not PartialState._shared_state
