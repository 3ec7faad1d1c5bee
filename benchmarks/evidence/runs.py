"""One training of one arm, from where it stands to its end, and what it scored on its way."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from benchmarks.evidence.networks import build, count, widened
from hairify import HairModel, hairify
from hairify._support.files import replacing, write_text
from hairify.data.datasets import Task, load_pair
from hairify.data.samples import TrainingSamples, collate
from hairify.evaluation import Conditioning, measure_conditioning, middle, psnr
from hairify.training import TrainingSettings, train

Regime: TypeAlias = Literal["trained", "scratch"]
Arm: TypeAlias = Literal["static", "widened", "converted", "mean"]

ARMS: tuple[Arm, ...] = ("static", "widened", "converted", "mean")
DEGRADATIONS = ("noise25", "rain", "haze", "defocus", "low_light")
_CALIBRATION = 256
_CACHE = 2**30
_AT_ONCE = 12
_LATER = 1000  # added to the seed of the samples after the conversion


@dataclass(frozen=True)
class Recipe:
    """How all networks are trained.

    Attributes:
        before: steps of the unconverted network in regime "trained".
        steps: after them, of each arm; in regime "scratch" all of them.
        patch: side of the patches.
        per_degradation: patches of each degradation in a step.
        rate: learning rate before the conversion, and from scratch.
        rate_after: after the conversion. The last tenth of all steps is at a tenth of the rate.
        crop: side of the middle of each held-out photograph on which networks are evaluated.
        evaluations: how often, on the way.
        precision: number type of the networks' computations in training.
    """

    before: int = 4000
    steps: int = 2000
    patch: int = 48
    per_degradation: int = 2
    rate: float = 1e-3
    rate_after: float = 5e-4
    crop: int = 128
    evaluations: int = 5
    precision: Literal["no", "bf16"] = "no"


class AtTheMean(nn.Module):
    """A converted network whose HSNs always get the mean GIV of the photographs it was calibrated on.

    So it has all that conversion adds, but tells no image from another.
    """

    mean: Tensor

    def __init__(self, hair: HairModel, mean: Tensor) -> None:
        super().__init__()
        self.hair = hair
        self.register_buffer("mean", mean)

    def forward(self, images: Tensor) -> Tensor:
        """Images to images, (B, 3, H, W)."""
        with self.hair.conditioned_on(self.mean):
            return self.hair(images)


@dataclass(frozen=True)
class Run:
    """One arm of one comparison."""

    regime: Regime
    network: str
    seed: int
    arm: Arm

    @property
    def name(self) -> str:
        """For `--only`, and its folder."""
        return f"{self.regime}/{self.network}/{self.seed}/{self.arm}"


class Runner:
    """Carries out runs, each in a folder of its own; what is done is not done again.

    Args:
        output: the folder of all runs.
        recipe: how they are trained.
        learnt: photographs to learn from.
        tested: held-out photographs.
    """

    def __init__(self, output: Path, recipe: Recipe, learnt: Sequence[Path], tested: Sequence[Path]) -> None:
        self.output, self.recipe = output, recipe
        self._learnt = [Task(name, name, tuple(learnt), None) for name in DEGRADATIONS]
        self._tested = [Task(name, name, tuple(tested), None) for name in DEGRADATIONS]
        self._test = crops(self._tested, recipe.crop)

    def carry_out(self, run: Run) -> dict[str, Any]:
        """What a run came to, from its file where it is finished."""
        folder = self.output / run.name
        file = folder / "result.json"
        self._check_alike(run)
        with _alone(folder):
            if not file.exists():
                write_text(file, json.dumps(self._train(run, folder), indent=2) + "\n")
        return dict(json.loads(file.read_text(encoding="utf-8")))

    def _check_alike(self, run: Run) -> None:
        """Make sure that runs which are compared follow one recipe and see the same photographs."""
        folder = self.output / run.regime / run.network
        file = folder / "recipe.json"
        names = {"learnt": _names(self._learnt), "tested": _names(self._tested)}
        mine = {**asdict(self.recipe), **names}
        with _alone(folder):
            if not file.exists():
                write_text(file, json.dumps(mine, indent=2) + "\n")
        theirs = json.loads(file.read_text(encoding="utf-8"))
        if others := [name for name in mine if theirs.get(name) != mine[name]]:
            raise SystemExit(f"The runs in {folder} were begun with another {', '.join(others)}; give another --output")

    def _train(self, run: Run, folder: Path) -> dict[str, Any]:
        network = self._start(run)
        first = {"step": 0, "psnr": self._psnr(network)}
        rate = self.recipe.rate_after if run.regime == "trained" else self.recipe.rate
        settings = self._settings(self.recipe.steps, run.seed, rate, rate / 10)
        # Other patches than before, the same for all arms.
        network = self._trained(network, folder, settings, self._samples(_LATER + run.seed))
        curve = [first, *_evaluations(folder / "log.jsonl")]
        if curve[-1]["step"] != self.recipe.steps:  # no multiple of the interval, or the run was cut off just there
            curve.append({"step": self.recipe.steps, "psnr": self._psnr(network)})
        result = {"parameters": count(network), "curve": curve}
        if isinstance(network, HairModel):
            result["conditioning"] = self._conditioning(network).plain()
        return result

    def _start(self, run: Run) -> nn.Module:
        torch.manual_seed(run.seed)
        width = widened(run.network, self._converted_size(run.network)) if run.arm == "widened" else None
        network = build(run.network, width)
        if run.regime == "trained":
            kind = "before-widened" if width else "before"
            folder = self.output / run.regime / run.network / str(run.seed) / kind
            network = self._before(network, folder, run.seed)
        if run.arm in ("static", "widened"):
            return network
        hair = hairify(network, generator=torch.Generator().manual_seed(run.seed))
        images = collate([self._samples(run.seed)[i] for i in range(_CALIBRATION)])["degraded"]
        images = images.to(next(hair.parameters()).device)
        hair.calibrate(images)
        with torch.no_grad():
            return hair if run.arm == "converted" else AtTheMean(hair, hair.giv(images).mean(0, keepdim=True))

    def _converted_size(self, name: str) -> int:
        return count(hairify(build(name)))

    def _before(self, network: nn.Module, folder: Path, seed: int) -> nn.Module:
        """The network that has been trained unconverted; trained by whichever run needs it first."""
        weights = folder / "weights.pt"
        with _alone(folder):
            if not weights.exists():
                rate = self.recipe.rate
                settings = self._settings(self.recipe.before, seed, rate, rate)
                network = self._trained(network, folder, settings, self._samples(seed))
                with replacing(weights) as file:
                    torch.save(network.state_dict(), file)
        network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
        return network

    def _trained(
        self, network: nn.Module, folder: Path, settings: TrainingSettings, samples: TrainingSamples
    ) -> nn.Module:
        resume = any((folder / "checkpoints").glob("*.safetensors"))
        done = train(
            network,
            samples,
            settings,
            output=folder,
            validate=self._validate,
            measure=self._conditioning,
            resume=resume,
        )
        if done.interrupted:
            raise KeyboardInterrupt
        return done.model

    def _validate(self, network: nn.Module) -> dict[str, dict[str, float]]:
        return {name: {"psnr": value} for name, value in self._psnr(network).items()}

    def _settings(self, steps: int, seed: int, rate: float, final: float) -> TrainingSettings:
        return TrainingSettings(
            steps=steps,
            learning_rate=rate,
            final_learning_rate=final,
            epochs=9,
            final_epochs=1,  # the last tenth of the steps
            weight_decay=0.0,  # some of a HairModel's parameters get none in any case: the arms would not be equal
            clip_norm=1.0,
            ema_decay=0.999,
            batch_size=self.recipe.per_degradation * len(DEGRADATIONS),
            save_every=500,
            keep_checkpoints=1,
            validate_every=max(steps // self.recipe.evaluations, 1),
            mixed_precision=self.recipe.precision,
            workers=0,
            seed=seed,
            log_with=(),
        )

    def _samples(self, seed: int) -> TrainingSamples:
        return TrainingSamples(self._learnt, self.recipe.patch, seed, _CACHE)

    def _conditioning(self, hair: HairModel) -> Conditioning:
        device = next(hair.parameters()).device
        degraded, clean, names = self._test
        return measure_conditioning(hair, degraded.to(device), clean, names, batch_size=_AT_ONCE)

    @torch.no_grad()
    def _psnr(self, network: nn.Module) -> dict[str, float]:
        """By degradation, the mean over held-out photographs."""
        degraded, clean, names = self._test
        device = next(network.parameters()).device
        network.eval()
        restored = torch.cat([network(part.to(device)).cpu() for part in degraded.split(_AT_ONCE)])
        each = psnr(restored, clean).tolist()
        values = {name: [p for p, of in zip(each, names, strict=True) if of == name] for name in DEGRADATIONS}
        return {name: sum(found) / len(found) for name, found in values.items()}


def _evaluations(log: Path) -> list[dict[str, Any]]:
    """What a run's log says of its evaluations: step, PSNR by degradation, and of a HairModel the use of its GIV."""
    found: dict[int, dict[str, Any]] = {}
    for line in map(json.loads, log.read_text(encoding="utf-8").splitlines()):
        if "validation" in line:
            values = {name: scores["psnr"] for name, scores in line["validation"].items()}
            found[line["step"]] = {"step": line["step"], "psnr": values}
        elif "conditioning" in line and line["step"] in found:
            found[line["step"]]["conditioning"] = line["conditioning"]
    return list(found.values())


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Where several processes want what is made in a folder, one makes it, and the others wait.

    One that is killed lets go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _names(tasks: Sequence[Task]) -> list[str]:
    return sorted({path.stem for task in tasks for path in task.clean})


def crops(tasks: Sequence[Task], side: int) -> tuple[Tensor, Tensor, list[str]]:
    """The middle of each photograph, degraded and clean, and the name of its degradation."""
    pairs, names = [], []
    for task in tasks:
        for index in range(len(task.clean)):
            degraded, clean = load_pair(task, index)
            if min(clean.shape[1:]) < side:
                raise SystemExit(f"{task.clean[index]} is smaller than the {side} pixels that are evaluated")
            pairs.append([middle(image, side) for image in (degraded, clean)])
            names.append(task.name)
    return torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs]), names
