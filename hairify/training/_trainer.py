"""One training run, from its first step or from a checkpoint to its end."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import gather_object  # type: ignore[import-untyped]
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader

from hairify._support.memory import is_lack_of_memory
from hairify.data.samples import Batch, TrainingSamples
from hairify.errors import CheckpointError, DataError, HairError, OptionError, TrainingError
from hairify.training._agreement import agreed, compared
from hairify.training._checkpoints import About, Checkpoint, Checkpoints, refuse_other_runs
from hairify.training._compute import tf32
from hairify.training._finiteness import mean_losses, not_finite
from hairify.training._folders import CHECKPOINTS, MODEL
from hairify.training._interruption import Interruption, outlive_signals
from hairify.training._learner import Gradients, Learner
from hairify.training._loading import Reporting, calibration_images, collate_or_error, examples
from hairify.training._logs import LOG, RunLog, StepReport, best_score
from hairify.training._looking import Keep, Looking, Measure, Validate
from hairify.training._losses import Loss, loss_named
from hairify.training._memory import lack_of_memory
from hairify.training._progress import ProgressBar
from hairify.training._randomness import forked_random_state, seed_all
from hairify.training._settings import TrainingSettings, due
from hairify.training._sharding import accelerated
from hairify.training._trackers import Trackers, trackers_named
from hairify.training._tuning import TUNING, RunTuning

_MOST_SKIPPED = 30  # updates in a row: fp16's scale, 65536 at first, has been halved as often


@dataclass(frozen=True)
class TrainedRun:
    """What came of a run.

    Attributes:
        model: the network that was given, with the averaged weights, in evaluation mode on the run's device.
        steps: taken in all.
        losses: of every step from the first, also of those before a resumption.
        seconds: that they took.
        unreadable: {path: reason} of the files that could not be read since the run was started or resumed.
        interrupted: a signal ended it before its last step; it can be resumed.
    """

    model: nn.Module
    steps: int
    losses: list[float]
    seconds: float
    unreadable: dict[str, str]
    interrupted: bool


def train(
    model: nn.Module,
    samples: TrainingSamples,
    settings: TrainingSettings,
    *,
    output: Path,
    loss: Loss | None = None,
    validate: Validate | None = None,
    measure: Measure | None = None,
    keep: Keep | None = None,
    resume: bool = False,
    on_start: Callable[[], None] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    console: Console | None = None,
) -> TrainedRun:
    """Train a network, or go on with a run that ended early.

    A copy is trained; `model` gets the averaged weights for each validation, to be kept, and at the end. Step s learns
    from the samples from (s - 1)·batch_size to s·batch_size, of which each process and micro-batch takes its share, so
    the losses are the same for any number of them, but for rounding, batch statistics and dropout. Each step seeds the
    random numbers of PyTorch, numpy and Python, so that a resumed run does exactly what an unbroken one does. The
    random state is left as it was. A step trains the parameters that it uses: those of blocks that it skips, or of
    experts to which none of its images goes, stay as they are.

    Args:
        model: a HairModel or any other network; all processes give the same.
        samples: what it learns from.
        settings: the recipe.
        output: the run's folder, the same for all processes: checkpoints/, log.jsonl, tuning.json and what trackers
            write are made there.
        loss: what is brought down; by default `settings.loss`.
        validate: scores of a network, {task: {"psnr": ..., "ssim": ...}}; all processes call it, with the same
            network, every `validate_every` steps and after the last one; what the main one gets is written.
        measure: whether a HairModel uses its GIV; the main process calls it after each validation and at the end.
        keep: writes `model`, as it is after so many steps, under a name: "model" with each validation and checkpoint
            and at the end, also of a run that is interrupted; "best" where a validation has the best score so far. The
            main process calls it.
        resume: go on from the newest checkpoint in `output`.
        on_start: the main process calls it once all is checked, before the first step.
        on_step: the main process tells it each step.
        console: where progress is shown; None shows nothing.

    Returns:
        The run. After SIGINT or SIGTERM it ends with the step under way, and a checkpoint.

    Raises:
        OptionError: the settings do not fit the network, the processes or the device.
        TrainingError: the run cannot start, go on or be resumed. The last checkpoint stays as it is.
        DataError: no image of a task can be read.
    """
    if loss is not None and settings.loss is not None:
        raise OptionError(f"`loss` is given, and is {settings.loss!r} in `settings`; leave one of them out.")
    if loss is None:
        loss = loss_named(settings.loss, model, of_each_image=settings.uncertainty)
    with accelerated(settings) as accelerator, forked_random_state(accelerator.device), tf32(settings.tf32):
        run = _Run(model, samples, settings, accelerator, Path(output), loss, resume, console)
        if on_start is not None and accelerator.is_main_process:
            on_start()
        return run.to_its_end(validate if settings.validate_every else None, measure, keep, on_step)


class _Run:
    """A run at the step it has reached."""

    def __init__(
        self,
        model: nn.Module,
        samples: TrainingSamples,
        settings: TrainingSettings,
        accelerator: Accelerator,
        output: Path,
        loss: Loss,
        resume: bool,
        console: Console | None,
    ) -> None:
        self.model, self.samples, self.settings, self.accelerator = model, samples, settings, accelerator
        trackers_named(settings.log_with)  # now: what is missing is missed before the first step
        self.output, self.checkpoints = output, Checkpoints(output / CHECKPOINTS, settings.keep_checkpoints)
        self.steps = settings.total_steps(samples.epoch)
        self.batches = settings.batches(self.steps)
        for stage in self.batches.stages:
            settings.images_at_once(accelerator.num_processes, stage.batch_size)
        self.unreadable: dict[str, str] = {}
        self.best: float | None = None
        start, notes = self._checkpoint_to_resume() if resume else self._no_checkpoint()
        self.step = start.about.step if start else 0
        self.losses: list[float] = start.tensors["losses"].tolist() if start else []
        self._seed(0)
        tried = examples(samples, self.batches.stages)
        weights = start.part("model") if start else None
        images = None if start else calibration_images(model, samples, settings.calibration, notes)
        with self._enough_memory(tried[-1], self.batches.stages[-1].batch_size):
            self.learner = Learner(model, loss, settings, accelerator, tried, self._degradations(), weights, images)
        if start:
            trained_beside = {name: start.part(name) for name in ("classifier", "uncertainty")}
            self.learner.go_on(start.part("optimizer"), start.part("average"), trained_beside, start.about.scaler)
        self.tuning = RunTuning(accelerator, output / TUNING, resume=resume) if settings.tune else None
        self.began = time.monotonic() - (start.about.seconds if start else 0)
        notes += self.learner.notes()
        console = console if accelerator.is_main_process else None
        self.bar = ProgressBar(console, self.steps, self.step, settings.batch_size)
        for note in notes if accelerator.is_main_process else ():
            self.bar.note(note)

    def _degradations(self) -> list[int]:
        """The number of each task's degradation; several tasks may show the same."""
        return [self._names().index(task.degradation) for task in self.samples.tasks]

    def _names(self) -> list[str]:
        """The degradations by their numbers."""
        return [*dict.fromkeys(task.degradation for task in self.samples.tasks)]

    # The loop

    def to_its_end(
        self,
        validate: Validate | None,
        measure: Measure | None,
        keep: Keep | None,
        on_step: Callable[[StepReport], None] | None,
    ) -> TrainedRun:
        """Take the steps that are left, unless a signal comes."""
        looking = Looking(self.model, validate, measure, keep, self.bar, lambda path: self._writing(self.output / path))
        self.best = best_score(self.output / LOG, self.step, self.settings.best_by)
        stop, kept = False, False
        with (
            contextlib.closing(self._batches(self.step)) as batches,
            self._log() as log,
            self.bar,
            Interruption() as interruption,
        ):
            while self.step < self.steps and not stop:
                report, stop = self._take_step(batches, lambda: interruption.asked)
                if log is not None:
                    self._tell(report, log, on_step)
                kept = self._after(stop, looking, log)
        if not kept:  # no step was left, or nothing was to be done after the last
            self.learner.give_to(self.model)
            if self.accelerator.is_main_process:
                looking.keep(MODEL, self.step)
        if (weights := self.learner.learned_weights(self._names())) and self.accelerator.is_main_process:
            self.bar.note(weights)
        unreadable = dict(gather_object([*self.unreadable.items()]))
        interrupted = self.step < self.steps
        return TrainedRun(self.model, self.step, self.losses, self._seconds(), unreadable, interrupted)

    def _after(self, stop: bool, looking: Looking, log: RunLog | None) -> bool:
        """After a step, write a checkpoint, and the network, and look at it, as is due; whether it got its weights.

        All processes call it, since each may hold a part and scores some images; the main one, with the log, writes.
        """
        last = self.step == self.steps
        saves = stop or last or due(self.step, self.settings.save_every)
        looks = not stop and (last or due(self.step, self.settings.validate_every))
        if saves:
            self._save(log)
        if not looking.wants(saves, looks):
            return False
        self.learner.give_to(self.model)
        if log is not None:
            looking.keep(MODEL, self.step)
        if looks:
            self.best = looking.look(self.step, self.settings.best_by, self.best, log, last=last)
        self.accelerator.wait_for_everyone()
        return True

    def _take_step(self, batches: Iterator[Batch | DataError], asked: Callable[[], bool]) -> tuple[StepReport, bool]:
        """Learn from the next `batch_size` samples; also whether any process was asked to stop."""
        self.step += 1
        self._seed(self.step)
        batch_size = self.batches.stage(self.step).batch_size
        self.bar.takes(batch_size)
        mine = [self._noted(batch) for batch in itertools.islice(batches, self.settings.accumulation)]
        rate = self.settings.rate(self.step, self.steps)
        with self._enough_memory(mine[0], batch_size):
            self._tune(mine[0])
            gradients = self.learner.gradients(mine, asked)
            losses = self._checked(gradients, [name for batch in mine for name in batch["image"]])
            self.learner.update(self.step, rate)
        if self.learner.skipped >= _MOST_SKIPPED:
            raise self._not_finite(f"gradients of the last {_MOST_SKIPPED} steps to {self.step} are not finite")
        self.losses.append(gradients.losses.mean().item())
        report = StepReport(self.step, self.steps, self.losses[-1], losses, rate, self._seconds(), len(self.unreadable))
        return report, gradients.stop

    def _tune(self, batch: Batch) -> None:
        """Measure kernels, where that is wanted, before the first batch of each shape."""
        if self.tuning is None:
            return
        notes, new = self.learner.tune(self.tuning, batch)
        for note in notes:
            self.bar.note(note)
        if new is not None:
            with self._writing(self.tuning.path):
                new.save(self.tuning.path)

    def _batches(self, taken: int) -> Generator[Batch | DataError, None, None]:
        """This process's micro-batches after so many steps. Closing it ends the processes that load them."""
        processes, mine = self.accelerator.num_processes, self.accelerator.process_index
        draws = (
            draw
            for step in range(taken + 1, self.steps + 1)
            for draw in self.batches.micro_batches(step, mine, processes, self.settings.accumulation)
        )
        yield from DataLoader(
            Reporting(self.samples),
            batch_sampler=draws,
            generator=torch.Generator(),  # else it would draw its workers' seed from the step's random numbers
            num_workers=self.settings.workers,
            collate_fn=collate_or_error,
            pin_memory=self.accelerator.device.type == "cuda",
            worker_init_fn=outlive_signals,
        )

    def _seed(self, step: int) -> None:
        """Random numbers of a step depend on it and on the process, and on nothing before."""
        text = f"{self.settings.seed}/{step}/{self.accelerator.process_index}"
        seed_all(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big"), self.accelerator.device)

    def _seconds(self) -> float:
        return time.monotonic() - self.began

    # What may be wrong with a step

    def _noted(self, batch: Batch | DataError) -> Batch:
        """A batch, after the files that could not be read have been noted."""
        if isinstance(batch, DataError):
            raise batch
        for path, reason in batch["unreadable"]:
            if path not in self.unreadable:
                self.unreadable[path] = reason
                self.bar.note(f"Left out: {reason if path in reason else f'{path}: {reason}'}")
        return batch

    def _checked(self, gradients: Gradients, images: list[str]) -> dict[str, float]:
        """The mean loss of each degradation.

        Args:
            gradients: of the step.
            images: the files that this process took.

        Raises:
            TrainingError: a loss or the gradient is not finite; with fp16 the latter is ordinary, and the step skipped.
        """
        means = mean_losses(gradients, [task.degradation for task in self.samples.tasks])
        is_finite = math.isfinite(gradients.norm) or self.settings.mixed_precision == "fp16"
        if is_finite and all(map(math.isfinite, means.values())):
            return means
        raise self._not_finite(not_finite(self.step, gradients, means, gather_object(images)))

    @contextlib.contextmanager
    def _enough_memory(self, batch: Batch, batch_size: int) -> Iterator[None]:
        """Where memory does not suffice for learning from a micro-batch of a step, say what to lower."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, HairError) or not is_lack_of_memory(error):
                raise
            processes, shape = self.accelerator.num_processes, batch["degraded"].shape
            raise lack_of_memory(error, self.settings, processes, batch_size, shape, self._last_checkpoint()) from error

    def _not_finite(self, what: str) -> TrainingError:
        other = {"no": "", "bf16": ", or `mixed_precision` 'no'", "fp16": ", or `mixed_precision` 'bf16' or 'no'"}
        return TrainingError(
            f"The {what}. The weights were not changed by it. {self._last_checkpoint()} Try a lower `learning_rate`, "
            f"`clip_norm` (1.0, say){other[self.settings.mixed_precision]}; with these a run can be resumed, too."
        )

    # What is kept

    def _no_checkpoint(self) -> tuple[None, list[str]]:
        refuse_other_runs(self.output)
        return None, []

    def _checkpoint_to_resume(self) -> tuple[Checkpoint, list[str]]:
        """What to go on from, and what to say of it: why not from a newer one, and which settings are others now."""
        checkpoint, damaged = self.checkpoints.newest()
        adjusted, wrong = compared(checkpoint.about.agreed, self._agreed())
        if self.steps < checkpoint.about.step:
            wrong.append(f"{checkpoint.about.step} steps are taken already, but the run is to have {self.steps}")
        if wrong:
            raise TrainingError(
                f"The run in {self.output} cannot go on like this: {'; '.join(wrong)}. Resume it with what it was "
                "begun with, or start another run in another `output`."
            )
        notes = [f"{reason} Going on from step {checkpoint.about.step}." for reason in damaged]
        return checkpoint, [*notes, *(f"From step {checkpoint.about.step + 1} on: {text}." for text in adjusted)]

    def _agreed(self) -> dict[str, Any]:
        return agreed(self.settings, self.model, self.samples)

    def _save(self, log: RunLog | None) -> None:
        """Write a checkpoint. All processes call it; the main one, with the log, writes."""
        tensors = self.learner.tensors()
        if log is None:
            return
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        about = About(self.step, self._seconds(), self._agreed(), self.learner.scaler())
        with self._writing(log.path):
            log.sync()
        with self._writing(self.checkpoints.path(self.step)):
            self.checkpoints.save(Checkpoint(about, tensors))

    def _tell(self, report: StepReport, log: RunLog, on_step: Callable[[StepReport], None] | None) -> None:
        self.bar.step(report)
        with self._writing(log.path):
            log.step(report)
        if on_step is not None:
            on_step(report)

    @contextlib.contextmanager
    def _log(self) -> Iterator[RunLog | None]:
        """The main process's; others have none."""
        if not self.accelerator.is_main_process:
            yield None
            return
        with self._writing(self.output):
            self.output.mkdir(parents=True, exist_ok=True)
            trackers = Trackers(self.settings.log_with, self.output, self.step, asdict(self.settings), self.bar.note)
            log = RunLog(self.output, self.step, trackers)
        try:
            yield log
        finally:
            with self._writing(log.path):  # what TensorBoard holds back is written now
                log.close()

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Where `path` cannot be written, say so, and what is left."""
        try:
            yield
        except (OSError, safetensors.SafetensorError, CheckpointError) as error:  # all of them where the disk is full
            existing = next(folder for folder in path.absolute().parents if folder.exists())
            free = shutil.disk_usage(existing).free / 2**20
            again = "resume the run by `resume`" if self.checkpoints.paths() else "start the run again"
            raise TrainingError(
                f"{path} cannot be written at step {self.step}: {error}. {free:,.1f} MiB are free there. "
                f"{self._last_checkpoint()} Make room, then {again}."
            ) from error

    def _last_checkpoint(self) -> str:
        paths = self.checkpoints.paths()
        return f"The checkpoint {paths[-1]} is as it was." if paths else "There is no checkpoint yet."
