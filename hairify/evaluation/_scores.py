"""Evaluation as the field does it: PSNR and SSIM on whole RGB images, blind, one image at a time."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.table import Table
from rich.text import Text
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from hairify._support.modes import evaluation_mode
from hairify.data.datasets import Task, load_pair
from hairify.errors import DataError, ImageError
from hairify.evaluation._conditioning import Conditioning, measure_conditioning
from hairify.model import HairModel
from hairify.restoring._failures import OF_WHOLE_IMAGE, failure_in_words
from hairify.restoring._tiling import restore_whole

_LOGGER = logging.getLogger(__name__)
_LEAST_SIDE = 7  # of the window in which SSIM looks
AVERAGE = "average"
_CROP = 128  # side in pixels of what the use of the GIV is measured on
_CROPS = 8  # of each task


@dataclass(frozen=True)
class Score:
    """Likeness to the clean image: PSNR in dB and SSIM, both by scikit-image over all of RGB, data range 1."""

    psnr: float
    ssim: float


def score(image: Tensor, clean: Tensor) -> Score:
    """Compares an image with the clean one, both (3, H, W) in [0, 1]. Equal images have an infinite PSNR.

    Raises:
        ImageError: a side is shorter than 7 pixels, the window of SSIM.
    """
    if min(clean.shape[1:]) < _LEAST_SIDE:
        height, width = clean.shape[1:]
        raise ImageError(f"An image of {width}×{height} pixels has no SSIM; both sides must be {_LEAST_SIDE} or more.")
    pair = clean.double().cpu().numpy(), image.double().cpu().numpy()
    if torch.equal(clean, image):
        return Score(psnr=math.inf, ssim=1.0)
    return Score(
        psnr=float(peak_signal_noise_ratio(*pair, data_range=1)),
        ssim=float(structural_similarity(*pair, channel_axis=0, data_range=1)),
    )


def mean(scores: Sequence[Score]) -> Score:
    """The mean PSNR and the mean SSIM of at least one score."""
    return Score(sum(one.psnr for one in scores) / len(scores), sum(one.ssim for one in scores) / len(scores))


@dataclass(frozen=True)
class Results:
    """Scores of one network.

    Attributes:
        scores: {task: mean over its images}, in the order of evaluation.
        counts: {task: number of images}.
        inputs: {task: mean score of the degraded images themselves}.
        unreadable: {image: reason} for those that were left out, since they could not be read, compared or restored,
            each under the degraded file where there is one. A task of which none is left has no scores.
        conditioning: of a HairModel, whether it uses its GIV, as `Conditioning.plain` has it; None: not measured.
    """

    scores: Mapping[str, Score]
    counts: Mapping[str, int]
    inputs: Mapping[str, Score]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    conditioning: Mapping[str, Any] | None = None

    @property
    def average(self) -> Score:
        """The mean over tasks, each counting once, as in the paper's tables."""
        return mean(list(self.scores.values()))

    def plain(self) -> dict[str, Any]:
        """The numbers as JSON has them; an infinite PSNR is None, one that is no number "nan"."""

        def numbers(one: Score) -> dict[str, float | str | None]:
            return {"psnr": None if one.psnr == math.inf else _plain(one.psnr), "ssim": _plain(one.ssim)}

        return {
            "tasks": {
                name: numbers(one) | {"images": self.counts[name], "input": numbers(self.inputs[name])}
                for name, one in self.scores.items()
            },
            AVERAGE: numbers(self.average),
            "unreadable": dict(self.unreadable),
            **({} if self.conditioning is None else {"conditioning": dict(self.conditioning)}),
        }

    def to_json(self) -> str:
        """Everything, as JSON text."""
        return json.dumps(self.plain(), indent=2, ensure_ascii=False) + "\n"

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Task, number of images, input and restored as "PSNR / SSIM"; the average comes last."""
        rows = [
            (name, str(self.counts[name]), _cell(self.inputs[name]), _cell(one)) for name, one in self.scores.items()
        ]
        average = (AVERAGE, str(sum(self.counts.values())), _cell(mean(list(self.inputs.values()))))
        return [*rows, (*average, _cell(self.average))]

    def to_markdown(self) -> str:
        """A table like the paper's, with PSNR in dB / SSIM."""
        lines = ["| | images | input | restored |", "|---|---:|---:|---:|"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows()]
        if self.conditioning is not None:
            lines += ["", _in_words(self.conditioning)]
        return "\n".join(lines) + "\n"

    def table(self) -> Table:
        """The same for the terminal."""
        table = Table(title="PSNR in dB / SSIM, on whole RGB images", title_justify="left")
        table.add_column("")
        for name in ("images", "input", "restored"):
            table.add_column(name, justify="right")
        for row in self.rows():
            table.add_row(*map(Text, row), end_section=row[0] == list(self.scores)[-1])
        return table


def read_results(path: Path) -> Results:
    """Results from a file that `Results.to_json` wrote.

    Raises:
        DataError: it is missing, or was written by something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        tasks = data["tasks"]
        return Results(
            scores={name: _score(one) for name, one in tasks.items()},
            counts={name: int(one["images"]) for name, one in tasks.items()},
            inputs={name: _score(one["input"]) for name, one in tasks.items()},
            unreadable=data["unreadable"],
            conditioning=data.get("conditioning"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} holds no results of `hairify evaluate`: {error}") from error


@torch.no_grad()
def evaluate(
    network: nn.Module,
    tasks: Sequence[Task],
    *,
    multiple: int,
    seed: int = 0,
    on_image: Callable[[Task, Score], None] | None = None,
    keep: Callable[[Task, int, Tensor, Tensor, Tensor], None] | None = None,
) -> Results:
    """Restores every image of every task, whole and alone, and compares it with the clean one.

    An image that cannot be read or restored, as for lack of memory, is left out and named. The network runs in
    evaluation mode, on its own device, and is put back into its mode.

    Args:
        network: images → images; told nothing about the degradation.
        tasks: the images, by task.
        multiple: images are padded to multiples of it, and the result is cropped.
        seed: of degradations that are synthesised.
        on_image: is told the score of each image.
        keep: is given each image: task, index, degraded, clean and restored, (3, H, W) in [0, 1] on the CPU.

    Raises:
        DataError: there is no image at all that can be read, is not smaller than 7×7, and can be restored.
    """
    scores, counts, inputs = {}, {}, {}
    unreadable: dict[str, str] = {}
    with evaluation_mode(network):
        for task in tasks:
            own: list[tuple[Score, Score]] = []
            for index, path in enumerate(task.clean):
                try:
                    degraded, clean = load_pair(task, index, seed)
                    if not (degraded.isfinite().all() and clean.isfinite().all()):
                        raise ImageError("It, or its clean image, has values that are not finite.")
                    before = score(degraded, clean)
                    restored = restore_whole(network, degraded[None], multiple)[0]
                    own.append((before, score(restored, clean)))
                except Exception as error:
                    unreadable[str(task.files(index)[0] or path)] = failure_in_words(error, OF_WHOLE_IMAGE)
                    continue
                if on_image is not None:
                    on_image(task, own[-1][1])
                if keep is not None:
                    keep(task, index, degraded, clean, restored)
            if not own:
                continue
            inputs[task.name], scores[task.name] = (mean([pair[i] for pair in own]) for i in (0, 1))
            counts[task.name] = len(own)
    if not scores:
        raise DataError(
            "There is nothing to evaluate: "
            + "; ".join(f"None of the {len(task.clean)} images of {task.name!r} can be restored" for task in tasks)
            + f". The reasons: {unreadable}"
        )
    return Results(scores, counts, inputs, unreadable)


def conditioning_on(
    network: HairModel,
    tasks: Sequence[Task],
    *,
    multiple: int,
    crops: int = _CROPS,
    seed: int = 0,
    without: Collection[str] = (),
) -> Conditioning | None:
    """Whether a HairModel uses its GIV, on the middle of some images of each task.

    Args:
        network: the network.
        tasks: the images.
        multiple: of which images' sides must be multiples.
        crops: of each task, at most.
        seed: of degradations that are synthesised.
        without: images that are left out, by the names that `Results.unreadable` has.

    Returns:
        The measurement; None where no two degradations have images of at least `multiple` pixels that can be read and
        restored.
    """
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for task in tasks:
        for index in range(min(crops, len(task.clean))):
            if str(task.files(index)[0] or task.clean[index]) in without:
                continue
            try:
                pair = load_pair(task, index, seed)
            except Exception:  # it is named where all images are evaluated
                continue
            if _side(pair) >= multiple and all(bool(image.isfinite().all()) for image in pair):
                pairs.setdefault(task.degradation, []).append(pair)
    if len(pairs) < 2:
        return None
    # Small images give small crops; but one that is smaller than most of its degradation is left out.
    side = min(_CROP, *(int(median(map(_side, of_one))) for of_one in pairs.values()))
    side = max(side // multiple * multiple, multiple)
    kept = [(name, pair) for name, of_one in pairs.items() for pair in of_one if _side(pair) >= side]
    degraded, clean = (torch.stack([middle(pair[i], side) for _, pair in kept]) for i in (0, 1))
    for batch_size in (8, 1):  # several at once may take more memory than there is
        try:
            return measure_conditioning(network, degraded, clean, [name for name, _ in kept], batch_size=batch_size)
        except Exception as error:
            reason = failure_in_words(error, "Out of memory.")
    _LOGGER.warning("The use of the GIV could not be measured: %s", reason)
    return None


def _side(pair: tuple[Tensor, Tensor]) -> int:
    return min(pair[0].shape[1:])


def middle(image: Tensor, limit: int) -> Tensor:
    """The middle of an image (3, H, W), both sides at most `limit`."""
    height, width = (min(side, limit) for side in image.shape[1:])
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]


def _in_words(conditioning: Mapping[str, Any]) -> str:
    used = "uses" if conditioning["used"] else "does not use"
    told = conditioning["recognised"]
    recognised = "" if told is None else f" Nearest mean GIVs tell degradations apart in {told:.0%}."
    return (
        f"The network {used} its GIV: each image's own is {conditioning['gain']:.2f} dB better than the mean GIV, and "
        f"{conditioning['cost_of_wrong']:.2f} dB better than that of another degradation.{recognised}"
    )


def _cell(one: Score) -> str:
    return f"{one.psnr:.2f} / {one.ssim:.3f}"


def _plain(value: float) -> float | str:
    return "nan" if math.isnan(value) else value


def _score(data: Mapping[str, Any]) -> Score:
    return Score(math.inf if data["psnr"] is None else float(data["psnr"]), float(data["ssim"]))
