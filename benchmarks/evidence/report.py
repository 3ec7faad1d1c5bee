"""Tables and curves of what the runs came to."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.evidence.runs import ARMS, DEGRADATIONS

Difference: TypeAlias = tuple[float, float | None, int]
"""Mean and standard deviation over seeds (None of a single one), and the number of seeds."""

Results: TypeAlias = Mapping[tuple[str, str], Mapping[str, Mapping[int, Mapping[str, Any]]]]
"""{(regime, network): {arm: {seed: result}}}."""


def read(output: Path) -> Results:
    """All finished runs in a folder."""
    found: dict[tuple[str, str], dict[str, dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
    for file in sorted(output.glob("*/*/*/*/result.json")):
        regime, network, seed, arm = file.relative_to(output).parts[:4]
        found[regime, network][arm][int(seed)] = json.loads(file.read_text(encoding="utf-8"))
    return found


def differences(
    converted: Mapping[int, Mapping[str, float]], other: Mapping[int, Mapping[str, float]]
) -> dict[str, Difference]:
    """By degradation and on average, the paired differences over seeds.

    Args:
        converted: {seed: {degradation: PSNR}}.
        other: {seed: {degradation: PSNR}} of the arm to compare with; seeds that only one arm has are left out.
    """
    seeds = sorted(converted.keys() & other.keys())
    rows = {name: [converted[s][name] - other[s][name] for s in seeds] for name in DEGRADATIONS}
    rows["average"] = [statistics.mean(rows[name][i] for name in DEGRADATIONS) for i in range(len(seeds))]
    return {
        name: (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))
        for name, values in rows.items()
        if values
    }


def all_differences(arms: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, dict[str, Difference]]:
    """{arm: differences of the converted arm to it}, over the seeds that both have."""
    if "converted" not in arms:
        return {}
    others = [arm for arm in ARMS if arm in arms and arm != "converted"]
    found = {arm: differences(final(arms["converted"]), final(arms[arm])) for arm in others}
    return {arm: one for arm, one in found.items() if one}


def as_json(results: Results) -> dict[str, Any]:
    """Everything, by regime and network."""
    names = ("mean", "deviation", "seeds")
    return {
        "/".join(key): {
            "runs": {arm: dict(by_seed) for arm, by_seed in arms.items()},
            "converted minus": {
                arm: {name: dict(zip(names, one, strict=True)) for name, one in found.items()}
                for arm, found in all_differences(arms).items()
            },
        }
        for key, arms in results.items()
    }


def final(results: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """{seed: {degradation: PSNR}} at the end."""
    return {seed: dict(result["curve"][-1]["psnr"]) for seed, result in results.items()}


def as_markdown(results: Results) -> str:
    """Tables of scores, of paired differences and of the use of the GIV, for each regime and network."""
    lines: list[str] = []
    for (regime, network), arms in results.items():
        lines += [f"### {network}, {'from a trained network' if regime == 'trained' else 'from scratch'}", ""]
        lines += _scores(arms)
        if "converted" in arms:
            lines += _paired(arms)
            lines += _use(arms["converted"])
    return "\n".join(lines)


def _scores(arms: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    head = ("PSNR in dB", "parameters", "seeds", *DEGRADATIONS, "average")
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for arm in ARMS:
        if arm in arms:
            by_seed = list(final(arms[arm]).values())
            means = [statistics.mean(one[name] for one in by_seed) for name in DEGRADATIONS]
            size = next(iter(arms[arm].values()))["parameters"]
            cells = [f"{size:,}", str(len(by_seed)), *(f"{v:.2f}" for v in (*means, statistics.mean(means)))]
            lines.append(f"| {arm} | {' | '.join(cells)} |")
    return [*lines, ""]


def _paired(arms: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    head = ("converted minus", "seeds", *DEGRADATIONS, "average")
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for arm, found in all_differences(arms).items():
        cells = [
            f"{mean:+.2f}" if deviation is None else f"{mean:+.2f} ± {deviation:.2f}"
            for mean, deviation, _ in found.values()
        ]
        lines.append(f"| {arm} | {found['average'][2]} | {' | '.join(cells)} |")
    return [*lines, ""]


def _use(converted: Mapping[int, Mapping[str, Any]]) -> list[str]:
    lines = ["| seed | gain over the mean GIV | cost of another's | degradations told apart | vectors differ by |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for seed, result in sorted(converted.items()):
        use = result["conditioning"]
        told = "" if use["recognised"] is None else f"{use['recognised']:.0%}"
        lines.append(
            f"| {seed} | {use['gain']:.2f} dB | {use['cost_of_wrong']:.2f} dB | {told} | "
            f"{max(use['spread'].values()):.2f} |"
        )
    return [*lines, ""]


def draw(results: Results, folder: Path) -> list[Path]:
    """Average PSNR against steps, a line for each arm, the mean over seeds; one picture for each comparison."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    paths = []
    for (regime, network), arms in results.items():
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        for arm in ARMS:
            if arm in arms:
                steps, means = _curve(list(arms[arm].values()))
                axes.plot(steps, means, marker="o", label=f"{arm} ({len(arms[arm])} seeds)")
        axes.set(xlabel="steps", ylabel="PSNR in dB, mean over degradations", title=f"{network}, {regime}")
        axes.grid(alpha=0.3)
        axes.legend()
        paths.append(folder / f"evidence_{regime}_{network}.png")
        figure.savefig(paths[-1], dpi=120)
        plt.close(figure)
    return paths


def _curve(results: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    """Steps at which all were evaluated, and the mean PSNR over degradations and seeds at each."""
    curves = [{point["step"]: statistics.mean(point["psnr"].values()) for point in r["curve"]} for r in results]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    return steps, [statistics.mean(curve[step] for curve in curves) for step in steps]
