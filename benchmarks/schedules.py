"""The learning rates of all recipes: python -m benchmarks.schedules docs/images/recipe_schedules.png."""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hairify import recipes
from hairify.cli.options import make_settings, read_tables
from hairify.training import TrainingSettings

_EPOCH = 1000  # steps; the course in epochs is the same for any number of them, but for rounding
_POINTS = 400


def points(settings: TrainingSettings) -> tuple[list[float], list[float]]:
    """Where a run is, in epochs or in steps where it counts these, and the learning rate there."""
    steps = settings.total_steps(_EPOCH * settings.batch_size)
    at = sorted({1, steps, *(round(i * steps / _POINTS) for i in range(1, _POINTS)), *_corners(settings, steps)})
    unit = 1 if settings.steps is not None else _EPOCH
    return [step / unit for step in at], [settings.rate(step, steps) for step in at]


def draw(path: Path) -> None:
    """Write the plots of all recipes to one file."""
    names = recipes.names()
    figure = Figure(figsize=(10, 4.4), layout="constrained", dpi=100)
    axes = [*figure.subplots(2, -(-len(names) // 2)).flat]
    for axis, name in zip(axes, names, strict=False):
        _draw(axis, name)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    figure.savefig(path)


def _draw(axis: Axes, name: str) -> None:
    settings = make_settings(TrainingSettings, read_tables(recipes.path(name))["training"], {})
    at, rates = points(settings)
    axis.plot(at, rates, linewidth=1.4, color="#00796b")
    axis.set_title(name, fontsize=9)
    axis.set_xlabel("step" if settings.steps is not None else "epoch")
    axis.set_ylim(0, max(rates) * 1.08)
    axis.set_xlim(0)
    axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axis.grid(color="#cccccc", linewidth=0.5)


def _corners(settings: TrainingSettings, steps: int) -> set[int]:
    """Steps at which the course turns, and those after."""
    course = settings.course(steps)
    turns = {course.warm_up, int(course.falling_from), int(course.falling_to)}
    return {step for turn in turns for step in (turn, turn + 1) if 1 <= step <= steps}


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
