"""The progress bar of a run."""

from __future__ import annotations

import logging
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from hairify.training._logs import Scores, StepReport

_LOGGER = logging.getLogger(__name__)
_SMOOTHING = 0.95


class ProgressBar:
    """Shows steps, smoothed losses, images per second, and the time elapsed and left.

    Args:
        console: where; None shows nothing, and notes go to Python's logging.
        steps: of the whole run.
        step: how many steps are taken already.
        batch_size: images per step.
    """

    def __init__(self, console: Console | None, steps: int, step: int, batch_size: int) -> None:
        self._console = console
        self._losses: dict[str, float] = {}
        self._speed = _Speed(batch_size)
        self._bar = Progress(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(20),
            TextColumn("{task.fields[losses]}"),
            self._speed,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=console is None,
        )
        self._task = self._bar.add_task("", total=steps, completed=step, losses="")

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def takes(self, batch_size: int) -> None:
        """From now on a step has so many images."""
        self._speed.batch_size = batch_size

    def step(self, report: StepReport) -> None:
        """Show a step."""
        for name, loss in report.losses.items():
            self._losses[name] = _SMOOTHING * self._losses.get(name, loss) + (1 - _SMOOTHING) * loss
        shown = [f"{escape(name)} {loss:.4f}" for name, loss in sorted(self._losses.items())]
        if report.unreadable:
            shown.append(f"[red]{report.unreadable} unreadable[/red]")
        self._bar.update(self._task, completed=report.step, losses=" ".join(shown))

    def validation(self, step: int, scores: Scores) -> None:
        """Say what scores the network has after a step."""
        shown = [
            " ".join([task, *(f"{name} {value:.{2 if name == 'psnr' else 3}f}" for name, value in values.items())])
            for task, values in scores.items()
        ]
        self.note(f"step {step}: {', '.join(shown)}")

    def note(self, text: str) -> None:
        """Say something beside the bar."""
        if self._console is None:
            _LOGGER.warning(text)
        else:
            self._console.print(text, markup=False, highlight=False)


class _Speed(ProgressColumn):
    """Images per second, as rich estimates steps per second."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed * self.batch_size:.1f} images/s" if task.speed else "")
