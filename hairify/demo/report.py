"""What the demo prints and the file of its results."""

import dataclasses
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from hairify.demo.evaluation import Sample, Score, mean_scores
from hairify.demo.photographs import HELD_OUT, TRAINING
from hairify.demo.settings import Settings


@dataclass(frozen=True)
class Contender:
    """One row of images to compare: the degraded input itself, or what a network made of it.

    `scores` has one entry for each sample, in the samples' order; the rest is empty for the input.
    """

    name: str
    scores: Sequence[Score]
    parameters: int = 0
    training_seconds: float = 0.0
    losses: Sequence[float] = ()


def print_scores(console: Console, samples: Sequence[Sample], contenders: Sequence[Contender]) -> None:
    """A table of mean PSNR and SSIM for each degradation, and the last contender's less those of the one before it."""
    table = Table(title="Held-out photographs: PSNR in dB / SSIM", title_justify="left")
    table.add_column("degradation")
    for contender in contenders:
        table.add_column(contender.name, justify="right")
    table.add_column("difference", justify="right")
    means = [mean_scores(samples, contender.scores) for contender in contenders]
    for degradation in means[0]:
        row = [mean[degradation] for mean in means]
        cells = [f"{one.psnr:.2f} / {one.ssim:.3f}" for one in row]
        difference = f"{row[-1].psnr - row[-2].psnr:+.2f} / {row[-1].ssim - row[-2].ssim:+.3f}"
        table.add_row(degradation, *cells, difference, end_section=degradation == list(means[0])[-2])
    console.print(table)
    for contender in contenders[1:]:
        console.print(
            f"{contender.name}: {contender.parameters:,} parameters, trained {contender.training_seconds:.0f} s"
        )


def write_results(path: Path, settings: Settings, samples: Sequence[Sample], contenders: Sequence[Contender]) -> None:
    """All that was measured, as JSON: settings, photographs, versions, mean scores, every single score, the losses."""
    each = []
    for index, sample in enumerate(samples):
        place = {"photograph": sample.photograph, "degradation": sample.degradation, "draw": sample.draw}
        each.append(place | {one.name: dataclasses.asdict(one.scores[index]) for one in contenders})
    results = {
        "settings": dataclasses.asdict(settings) | {"output": str(settings.output)},
        "photographs": {"training": TRAINING, "held out": HELD_OUT},
        "machine": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-image": version("scikit-image"),
            "threads": torch.get_num_threads(),
        },
        "networks": {
            one.name: {
                "parameters": one.parameters,
                "training_seconds": round(one.training_seconds, 2),
                "losses": [round(loss, 6) for loss in one.losses],
            }
            for one in contenders[1:]
        },
        "mean_scores": {one.name: _plain(mean_scores(samples, one.scores)) for one in contenders},
        "scores": each,
    }
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _plain(scores: Mapping[str, Score]) -> dict[str, dict[str, float]]:
    return {name: dataclasses.asdict(one) for name, one in scores.items()}
