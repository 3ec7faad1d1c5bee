"""A run can be used at any time: what it keeps on the way, what may change when it goes on, what it says of memory."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_runs import Plain, Same, broken_off, converted, run, seeded

from hairify.errors import OptionError, TrainingError
from hairify.training import TrainingSettings
from hairify.training._agreement import ADJUSTABLE, FREE


def entries(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


# What is kept on the way


class Kept:
    """Remembers the weights at each call."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls: list[tuple[str, int]] = []
        self.last: dict[str, Tensor] = {}

    def __call__(self, name: str, step: int) -> None:
        assert not any(module.training for module in self.model.modules())
        self.calls.append((name, step))
        self.last[name] = self.model.last.weight.detach().clone()


def scoring(values: list[float]) -> Any:
    scores = iter(values)
    return lambda network: {"a": {"psnr": (one := next(scores)) + 1, "ssim": -one}, "b": {"psnr": one, "ssim": 0.0}}


def test_the_network_is_kept_at_each_checkpoint_and_validation_and_the_best_by_its_mean_score(tmp_path: Path) -> None:
    model = seeded(Same)
    keep = Kept(model)
    scores = scoring([20.0, 19.0, 21.0, 20.5])
    run(model, tmp_path, steps=7, save_every=3, validate_every=2, validate=scores, keep=keep)
    assert keep.calls == [
        *(("model", 2), ("best", 2), ("model", 3), ("model", 4), ("model", 6), ("best", 6)),
        ("model", 7),
    ]
    assert torch.equal(keep.last["model"], model.last.weight)
    assert [entry["best"] for entry in entries(tmp_path) if "validation" in entry] == [True, False, True, False]
    assert not torch.equal(keep.last["best"], keep.last["model"])


def test_the_best_may_be_by_another_score(tmp_path: Path) -> None:
    keep = Kept(model := seeded(Same))
    scores = scoring([20.0, 19.0, 21.0])
    run(model, tmp_path, steps=6, validate_every=2, validate=scores, keep=keep, best_by="ssim")
    assert [step for name, step in keep.calls if name == "best"] == [2, 4]


def test_a_resumed_run_knows_its_best(tmp_path: Path) -> None:
    """Also that a later step, which is taken again, has overwritten it."""
    options: dict[str, Any] = {"steps": 6, "validate_every": 1, "save_every": 2}
    broken_off(seeded(Same), tmp_path, validate=scoring([20.0, 25.0, 24.0, 23.0, 26.0]), **options)
    keep = Kept(model := seeded(Same))  # from step 4
    run(model, tmp_path, resume=True, validate=scoring([22.0, 21.0]), keep=keep, **options)
    assert [step for name, step in keep.calls if name == "best"] == [5]

    broken_off(seeded(Same), tmp_path / "kept", validate=scoring([20.0, 25.0, 24.0, 23.0, 24.0]), **options)
    keep = Kept(model := seeded(Same))
    run(model, tmp_path / "kept", resume=True, validate=scoring([22.0, 26.0]), keep=keep, **options)
    assert [step for name, step in keep.calls if name == "best"] == [6]


def test_a_run_validates_at_its_end_whatever_its_length(tmp_path: Path) -> None:
    for every, expected in ((5000, [3]), (2, [2, 3]), (0, [])):
        output = tmp_path / str(every)
        run(seeded(Same), output, steps=3, validate_every=every, validate=scoring([20.0, 21.0]))
        assert [entry["step"] for entry in entries(output) if "validation" in entry] == expected


def test_an_interrupted_run_has_its_network(tmp_path: Path) -> None:
    keep = Kept(model := seeded(Same))

    def on_step(report: Any) -> None:
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    done = run(model, tmp_path, steps=9, save_every=0, keep=keep, on_step=on_step)
    assert done.interrupted
    assert keep.calls == [("model", done.steps)]
    assert torch.equal(keep.last["model"], model.last.weight)


def test_where_the_network_cannot_be_kept_it_is_said(tmp_path: Path) -> None:
    def keep(name: str, step: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match=r"/model cannot be written at step 2: .*00000002.safetensors is as it was"):
        run(seeded(Same), tmp_path, keep=keep)


# What may change when it goes on


def test_each_setting_counts_at_resume_or_is_refused_or_changes_nothing_of_what_is_learned(tmp_path: Path) -> None:
    fields = {field.name for field in dataclasses.fields(TrainingSettings)}
    assert fields >= FREE | ADJUSTABLE
    assert not FREE & ADJUSTABLE
    begun = {"steps": 4, "batch_size": 4}
    run(seeded(Same), tmp_path, **begun)
    others: dict[str, Any] = {
        "batch_size": 8,
        "seed": 1,
        "ema_decay": 0.5,
        "calibration": 9,
        "classify": 0.5,
        "freeze": ("first",),
        "freeze_base": True,
    }
    for name, value in others.items():
        with pytest.raises(TrainingError, match=f"`{name}` was .*, is "):
            run(seeded(Same), tmp_path, **begun | {name: value}, resume=True)


def test_more_steps_and_other_epochs_count_or_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(seeded(Same), tmp_path / "steps", steps=2)
    with pytest.raises(TrainingError, match=r"the run's length is given by `steps` \(2\), not by epochs"):
        run(seeded(Same), tmp_path / "steps", steps=2, epochs=9, resume=True)
    with caplog.at_level(logging.WARNING):
        assert run(seeded(Same), tmp_path / "steps", steps=4, epochs=9, resume=True).steps == 4
    assert "From step 3 on: `steps` was 2, is 4." in caplog.messages

    run(seeded(Same), tmp_path / "epochs", steps=None)  # 12 images: 3 steps each
    assert run(seeded(Same), tmp_path / "epochs", steps=None, epochs=2, resume=True).steps == 9
    assert run(seeded(Same), tmp_path / "epochs", steps=10, epochs=2, resume=True).steps == 10


# Memory


def test_lack_of_memory_says_what_to_lower_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    calls = itertools.count()

    def loss(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
        if next(calls) == 4:  # one is a trial
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        return (network(degraded) - clean).abs().mean(dim=(1, 2, 3))

    with pytest.raises(TrainingError) as caught:
        run(seeded(Same), tmp_path, loss=loss)
    message = str(caught.value)
    assert "not enough memory for a step: CUDA out of memory. Tried to allocate 9 GiB. In force" in message
    assert "`batch_size` 4 over 1 process(es) and `accumulation` 1, which makes 4 patch(es) of 16×16 pixels" in message
    assert "00000002.safetensors is as it was" in message
    assert all(f"`{name}`" in message for name in ("checkpoint_blocks", "mixed_precision", "patch_size", "batch_size"))
    advised = int(re.search(r"`accumulation` (\d+) \(2 at once", message)[1])  # type: ignore[index]
    assert run(seeded(Same), tmp_path, accumulation=advised, resume=True).steps == 6


def test_lack_of_memory_in_the_first_trial_is_said_too(tmp_path: Path) -> None:
    def loss(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(TrainingError, match=r"not enough memory .* There is no checkpoint yet\. .*`accumulation` 4"):
        run(seeded(Same), tmp_path, loss=loss, batch_size=4, accumulation=2)


def test_lack_of_memory_where_patches_grow_is_of_the_stage(tmp_path: Path) -> None:
    """The batch size of the settings, which no step has, cannot even be shared by the micro-batches."""

    def loss(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
        if len(degraded) == 8:  # the trials have two
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return (network(degraded) - clean).abs().mean(dim=(1, 2, 3))

    with pytest.raises(TrainingError) as caught:
        run(seeded(Same), tmp_path, loss=loss, batch_size=3, accumulation=2, progression=("8x12@1", "24x16@1"))
    message = str(caught.value)
    assert (
        "In force are batches of 16 by `progression` over 1 process(es) and `accumulation` 2, which makes 8" in message
    )
    assert "patch(es) of 24×24 pixels" in message
    assert "`accumulation` 4 (4 at once" in message
    assert "`patch_size`" not in message


# Trackers

TRACKER = """
from accelerate.tracking import GeneralTracker

class Tracker(GeneralTracker):
    name, requires_logging_directory, seen, fails = "own", False, [], ""

    def __init__(self, project): self.seen.append(project)
    @property
    def tracker(self): return self
    def start(self): self.raising("start")
    def store_init_configuration(self, values): self.seen.append(values)
    def log(self, values, step=None, **_):
        self.raising(step)
        self.seen.append((step, values))
    def finish(self): self.seen.append("finished")
    def raising(self, when):
        if self.fails == when: raise ConnectionError("no route to host")
"""


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "own_trackers.py").write_text(TRACKER)
    monkeypatch.syspath_prepend(tmp_path)
    import own_trackers  # type: ignore[import-not-found]

    yield own_trackers.Tracker
    sys.modules.pop("own_trackers")


OWN = ("own_trackers:Tracker",)


def test_a_tracker_gets_settings_losses_and_scores(tmp_path: Path, tracker: Any) -> None:
    done = run(seeded(Same), tmp_path / "run", steps=3, log_with=OWN, validate=scoring([20.0]), validate_every=9)
    project, settings, *logged, end = tracker.seen
    assert (project, end) == ("hairify", "finished")
    assert (settings["learning_rate"], settings["steps"], settings["clip_norm"]) == (1e-3, 3, "None")
    assert [values["loss/all"] for _, values in logged if "loss/all" in values] == done.losses
    assert logged[-1] == (3, {"psnr/a": 21.0, "ssim/a": -20.0, "psnr/b": 20.0, "ssim/b": 0.0})


def test_a_tracker_that_does_not_start_ends_the_run_before_its_first_step(tmp_path: Path, tracker: Any) -> None:
    tracker.fails = "start"
    with pytest.raises(TrainingError, match="'own_trackers:Tracker', which does not start: ConnectionError: no route"):
        run(seeded(Same), tmp_path / "run", log_with=OWN)
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_tracker_that_fails_on_the_way_does_not_end_the_run(
    tmp_path: Path, tracker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.fails = 2
    with caplog.at_level(logging.WARNING):
        assert run(seeded(Same), tmp_path / "run", steps=4, log_with=OWN).steps == 4
    assert [entry[0] for entry in tracker.seen[2:]] == [1]
    assert sum("does not take the numbers of step 2" in message for message in caplog.messages) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("wandbb",), r"'wandbb', which is no tracker. Did you mean 'wandb'\?"),
        (("none", "tensorboard"), "'none' excludes all others"),
        (("collections:OrderedDict",), "needed is a subclass of accelerate's GeneralTracker"),
        (("comet_ml",), "'comet_ml', which is not installed: pip install comet-ml"),
    ],
)
def test_a_tracker_that_is_not_there_is_named_before_the_first_step(
    tmp_path: Path, names: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hairify.training._trackers.get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(OptionError, match=message):
        run(seeded(Same), tmp_path / "run", log_with=names)
    assert not (tmp_path / "run").exists()


# What stays as it is


@pytest.mark.parametrize(("globs", "frozen"), [(("first", "*.bias"), "first"), (("la*",), "last")])
def test_parts_named_by_globs_stay_as_they_are(tmp_path: Path, globs: tuple[str, ...], frozen: str) -> None:
    before, after = seeded(Plain).state_dict(), run(seeded(Plain), tmp_path, freeze=globs).model.state_dict()
    still = {name for name, value in after.items() if torch.equal(value, before[name])}
    biases = {name for name in before if name.endswith("bias")} if "*.bias" in globs else set()
    assert still == {f"{frozen}.weight", f"{frozen}.bias"} | biases


def test_frozen_statistics_stay(tmp_path: Path) -> None:
    before, after = seeded(Plain).state_dict(), run(seeded(Plain), tmp_path, freeze=("norm",)).model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if name.startswith("norm"))


def test_parts_of_the_base_are_known_by_their_own_names(tmp_path: Path) -> None:
    hair = converted()
    before = {name: value.clone() for name, value in hair.state_dict().items()}
    after = run(hair, tmp_path, steps=2, freeze=("encoder_level1", "boxes", "dac")).model.state_dict()
    frozen = {name for name in before if name.startswith(("base.encoder_level1.", "boxes."))}
    assert frozen
    assert all(torch.equal(after[name], before[name]) for name in frozen)
    assert not torch.equal(after["base.patch_embed.proj.weight"], before["base.patch_embed.proj.weight"])
    with pytest.raises(
        OptionError, match=r"'encoder_levl1', which matches nothing in this HairModel.* mean '(base\.)?encoder_level1'"
    ):
        run(converted(), tmp_path / "other", freeze=("encoder_levl1",))
