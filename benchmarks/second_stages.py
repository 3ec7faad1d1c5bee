"""`python -m benchmarks.second_stages`: a denoiser learns to remove haze too; what does it forget, and what not?"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from benchmarks.evidence.runs import crops
from hairify import HairModel, hairify, load, save
from hairify._support.files import write_text
from hairify.data.datasets import Task
from hairify.data.photographs import HELD_OUT, TRAINING, photographs
from hairify.data.samples import TrainingSamples
from hairify.evaluation import psnr
from hairify.models import unet
from hairify.training import TrainingSettings, is_begun, train

NOISES = ("noise15", "noise25", "noise50")
ALL = (*NOISES, "haze")
INPUT, FIRST = "the images themselves", "denoiser"
TOGETHER = "all from the start"
_CACHE = 2**30
_CROP = 192
_LATER = 1000  # added to the seed of a second stage's samples: other patches than before

Scores: TypeAlias = dict[str, float]
"""PSNR by degradation, and of all noises together as "noise"."""


@dataclass(frozen=True)
class Arm:
    """A second stage: what the denoiser learns from, and what of it stays as it is."""

    degradations: tuple[str, ...]
    frozen: Literal["base", "boxes"] | None = None


ARMS: Mapping[str, Arm] = {
    "haze alone": Arm(("haze",)),
    "haze and noise": Arm(ALL),
    "haze alone, base frozen": Arm(("haze",), "base"),
    "haze alone, boxes frozen": Arm(("haze",), "boxes"),
    "haze and noise, base frozen": Arm(ALL, "base"),
}


@dataclass(frozen=True)
class Recipe:
    """How all networks are trained.

    Attributes:
        before: steps of the first stage.
        steps: of each second stage; who learns all from the start takes both numbers together.
        rate: learning rate of the first stage, and from the start.
        rate_after: of the second stage. The last tenth of all steps is at a tenth of the rate.
        width: of the U-Net.
        patch: side of the patches.
        batch: patches in a step.
    """

    before: int = 2000
    steps: int = 1000
    rate: float = 1e-3
    rate_after: float = 5e-4
    width: int = 12
    patch: int = 48
    batch: int = 8


class Runner:
    """Trains first and second stages; what is finished in its folder is not done again.

    Args:
        output: the folder.
        recipe: how they are trained.
    """

    def __init__(self, output: Path, recipe: Recipe) -> None:
        self._output, self._recipe = output, recipe
        self._test = crops([Task(name, name, photographs(HELD_OUT), None) for name in ALL], _CROP)

    def seed(self, seed: int) -> dict[str, Scores]:
        """The scores of what is restored, of the first stage, all second ones, and who learns all from the start."""
        recipe = self._recipe
        first = self._folder(seed, FIRST)
        found = {INPUT: self._scores(nn.Identity())}
        found |= {FIRST: self._stage(first, self._fresh(seed), Arm(NOISES), recipe.before, recipe.rate, seed)}
        for name, arm in ARMS.items():
            start = load(first / "model.safetensors", unet(width=recipe.width))
            folder = self._folder(seed, name)
            found[name] = self._stage(folder, start, arm, recipe.steps, recipe.rate_after, _LATER + seed)
        together, steps = self._folder(seed, TOGETHER), recipe.before + recipe.steps
        found[TOGETHER] = self._stage(together, self._fresh(seed), Arm(ALL), steps, recipe.rate, seed)
        return found

    def _folder(self, seed: int, name: str) -> Path:
        return self._output / str(seed) / name.replace(", ", "-").replace(" ", "-")

    def _fresh(self, seed: int) -> HairModel:
        torch.manual_seed(seed)
        return hairify(unet(width=self._recipe.width), generator=torch.Generator().manual_seed(seed))

    def _stage(self, folder: Path, start: HairModel, arm: Arm, steps: int, rate: float, seed: int) -> Scores:
        file = folder / "scores.json"
        if not file.exists():
            tasks = [Task(name, name, photographs(TRAINING), None) for name in arm.degradations]
            samples = TrainingSamples(tasks, self._recipe.patch, seed, _CACHE)
            settings = self._settings(steps, rate, seed, arm)
            if arm.frozen == "boxes":
                start.boxes.requires_grad_(False)
            done = train(start, samples, settings, output=folder, resume=is_begun(folder))
            if done.interrupted:
                raise KeyboardInterrupt
            assert isinstance(done.model, HairModel)
            save(done.model, folder / "model.safetensors")
            write_text(file, json.dumps(self._scores(done.model), indent=2) + "\n")
        return dict(json.loads(file.read_text(encoding="utf-8")))

    def _settings(self, steps: int, rate: float, seed: int, arm: Arm) -> TrainingSettings:
        return TrainingSettings(
            steps=steps,
            learning_rate=rate,
            final_learning_rate=rate / 10,
            epochs=9,
            final_epochs=1,
            clip_norm=1.0,
            batch_size=self._recipe.batch,
            freeze_base=arm.frozen == "base",
            keep_checkpoints=1,
            validate_every=0,
            workers=0,
            seed=seed,
            log_with=(),
        )

    @torch.no_grad()
    def _scores(self, network: nn.Module) -> Scores:
        degraded, clean, names = self._test
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        restored = torch.cat([network(part.to(device)).cpu() for part in degraded.split(4)])
        return by_degradation(psnr(restored, clean), names)


def by_degradation(values: Tensor, names: Sequence[str]) -> Scores:
    """Means over photographs, by degradation, and of all noises together."""
    found = {
        name: statistics.mean(value for value, of in zip(values.tolist(), names, strict=True) if of == name)
        for name in ALL
    }
    return found | {"noise": statistics.mean(found[name] for name in NOISES)}


def as_markdown(results: Sequence[Mapping[str, Scores]], recipe: Recipe) -> str:
    """Scores, and what each second stage gained and lost since the first: paired differences over seeds."""
    names = [INPUT, FIRST, *ARMS, TOGETHER]
    rows = [
        f"`{asdict(recipe)}`, {len(results)} seed(s). PSNR in dB on held-out photographs, mean over seeds; in "
        "brackets, the mean and standard deviation over seeds of the difference from the first stage.",
        "| trained on | " + " | ".join((*NOISES, "noise, mean", "haze")) + " |",
        "|---" * (len(NOISES) + 3) + "|",
    ]
    for name in names:
        start = name if name == INPUT else FIRST
        cells = [_cell([(one[name][of], one[start][of]) for one in results]) for of in (*NOISES, "noise", "haze")]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows[0] + "\n\n" + "\n".join(rows[1:]) + "\n"


def _cell(pairs: Sequence[tuple[float, float]]) -> str:
    mean = statistics.mean(value for value, _ in pairs)
    differences = [value - first for value, first in pairs]
    if not any(differences):
        return f"{mean:.2f}"
    spread = f" ± {statistics.stdev(differences):.2f}" if len(differences) > 1 else ""
    return f"{mean:.2f} ({statistics.mean(differences):+.2f}{spread})"


def main(arguments: list[str] | None = None) -> int:
    """Train what is not trained yet, and write the table after each seed."""
    options: Any = _parser().parse_args(arguments)
    recipe = Recipe(**{name: getattr(options, name) for name in asdict(Recipe())})
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    file = output / "recipe.json"
    text = json.dumps(asdict(recipe))
    if file.exists() and file.read_text(encoding="utf-8") != text:
        print(f"{output} has runs of another recipe; give another --output.")
        return 2
    write_text(file, text)
    runner, results = Runner(output, recipe), []
    for seed in range(options.seeds):
        results.append(runner.seed(seed))
        write_text(output / "second_stages.md", as_markdown(results, recipe))
        print(f"{seed + 1} seed(s) are in {output / 'second_stages.md'}", flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.second_stages",
        description="A small converted U-Net learns to remove noise, then haze too, on haze alone or on both.",
    )
    parser.add_argument("--output", type=Path, default=Path("second-stages-output"), help="finished runs are kept")
    parser.add_argument("--seeds", type=int, default=3, help="how many; otherwise 3")
    for name, value in asdict(Recipe()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value, help=f"otherwise {value}")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
