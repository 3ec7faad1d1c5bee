"""How the cost grows: with the batch, with N, and with the size of the image."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.cases import Case, Variant
from benchmarks.measure import Result

Curves: TypeAlias = Mapping[Hashable, Sequence[tuple[float, Result]]]

_STYLES: dict[Variant, str] = {"static": ":", "hairified": "-", "grouped": "--"}
_LEAST_POINTS = 2


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write those plots for which there are at least two points."""
    usual = [r for r in results if r.skipped is None and r.case.mode == "forward" and r.case.device == "cpu"]
    default = [r for r in usual if r.case.box_factor is None]
    paths = [folder / f"cost_by_{what}.png" for what in ("batch", "box_size", "size")]
    curves = [
        _curves(default, lambda c: (c.network, f"{c.size}²"), lambda c: c.batch),
        _curves(usual, lambda c: (c.network, f"batch {c.batch}, {c.size}²"), lambda c: c.box_factor or 1),
        _curves(default, lambda c: (c.network, f"batch {c.batch}"), lambda c: c.size),
    ]
    labels = ["images", "N / M (1 stands for what hairify(network) makes)", "side of the image"]
    drawn = [(c, label, path) for c, label, path in zip(curves, labels, paths, strict=True) if c]
    for curve, label, path in drawn:
        _draw(curve, label, path)
    return [path for _, _, path in drawn]


def _curves(results: Sequence[Result], of: Callable[[Case], Hashable], at: Callable[[Case], float]) -> Curves:
    found: dict[Hashable, dict[float, Result]] = defaultdict(dict)
    for result in results:
        found[of(result.case)][at(result.case)] = result
    ordered = {key: sorted(points.items(), key=lambda p: p[0]) for key, points in found.items()}
    most = max((len(points) for points in ordered.values()), default=0)
    # Curves of fewer points than others have say little beside them.
    return {key: points for key, points in ordered.items() if len(points) >= max(_LEAST_POINTS, most - 1)}


def _draw(curves: Curves, label: str, path: Path) -> None:
    figure = Figure(figsize=(11, 4.5), layout="constrained", dpi=120)
    ratio, seconds = figure.subplots(1, 2)
    for number, (key, points) in enumerate(curves.items()):
        name = ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)
        for variant, style in _STYLES.items():
            chosen = [(at, result) for at, result in points if variant in result.seconds]
            if not chosen:
                continue
            looks = {"linestyle": style, "marker": ".", "color": f"C{number}", "label": f"{name}: {variant}"}
            places = [at for at, _ in chosen]
            seconds.plot(places, [result.median(variant) for _, result in chosen], **looks)
            if variant != "static":
                ratio.plot(places, [statistics.median(result.ratios(variant)) for _, result in chosen], **looks)
    ticks = sorted({at for points in curves.values() for at, _ in points})
    ratio.axhline(1, color="black", linewidth=0.8)
    _label(ratio, label, "time, relative to the unconverted network", ticks)
    _label(seconds, label, "seconds", ticks)
    seconds.set_yscale("log")
    ratio.legend(fontsize="small")
    seconds.legend(fontsize="small")
    figure.savefig(path)


def _label(axes: Axes, x: str, y: str, ticks: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
