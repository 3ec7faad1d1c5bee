"""Restoring test images and measuring what came of them: blind, one image at a time, shared among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from hairify._support.memory import release_memory
from hairify._support.modes import evaluation_mode
from hairify.data.datasets import Task
from hairify.errors import DataError, ImageError
from hairify.evaluation._choosing import tiling_for
from hairify.evaluation._metrics import Metric
from hairify.evaluation._protocols import HAIRIFY, Pairs, Protocol
from hairify.evaluation._results import ImageResult, Results
from hairify.evaluation._scores import Score, mean, score, without_border
from hairify.evaluation._settings import TILE_ABOVE
from hairify.restoring._failures import failure_in_words
from hairify.restoring._processes import ALONE, Processes
from hairify.restoring._tiling import restore_tiled, restore_whole

Numbers: TypeAlias = dict[str, float]
"""{metric: number} of one image; "psnr" and "ssim" come first."""

InputScores: TypeAlias = MutableMapping[tuple[str, int], Numbers]
"""What degraded images score themselves, by task and index: kept from one evaluation to the next."""


@torch.no_grad()
def evaluate(
    network: nn.Module,
    tasks: Sequence[Task],
    *,
    multiple: int,
    seed: int = 0,
    protocol: Protocol = HAIRIFY,
    metrics: Sequence[Metric] = (),
    tile_above: float = TILE_ABOVE,
    inputs: InputScores | None = None,
    processes: Processes = ALONE,
    on_image: Callable[[Task, Score], None] | None = None,
    keep: Callable[[Task, int, Tensor, Tensor, Tensor], None] | None = None,
) -> Results:
    """Restores every image of every task, alone, and compares it with the clean one.

    An image that cannot be read or restored, as for lack of memory, is left out and named. The network runs in
    evaluation mode, on its own device, and is put back into its mode.

    Args:
        network: images → images; told nothing about the degradation.
        tasks: the images, by task.
        multiple: images are padded to multiples of it, and the result is cropped.
        seed: of degradations that are synthesised.
        protocol: how images are taken and compared.
        metrics: measured beside PSNR and SSIM.
        tile_above: megapixels above which an image is restored in tiles of one GIV, see `restore_tiled`; others are
            restored whole.
        inputs: what degraded images score themselves, of those that are there, which then are not measured again; the
            others are added. It belongs to these tasks, this seed, protocol and metrics.
        processes: those that share the images; each calls this with the same network and arguments, and gets the same
            results.
        on_image: is told the score of each image that this process restored.
        keep: is given each of these: task, index, degraded, clean and restored, (3, H, W) in [0, 1] on the CPU.

    Raises:
        DataError: there is no image at all that can be read, is not smaller than the window of SSIM, and can be
            restored.
    """
    measure = _Measuring(network, multiple, protocol, metrics, tile_above, {} if inputs is None else inputs)
    jobs = [(task, index) for task in tasks for index in range(len(task.clean))]
    own: list[ImageResult | str] = []
    release_memory()  # images may be large, and what trained before has left pieces
    with evaluation_mode(network):
        for number, pair in _pairs(jobs, Pairs(protocol, seed), processes):
            task, index = jobs[number]
            try:
                result, images = measure(task, index, pair)
            except Exception as error:
                own.append(failure_in_words(error, _lack_of_memory(tile_above)))
                continue
            own.append(result)
            if on_image is not None:
                on_image(task, _score(result.after))
            if keep is not None:
                keep(task, index, *images)
            del images  # the next ones need the memory
    done = processes.gathered(own)
    unreadable = {
        str(task.files(index)[0] or task.files(index)[1]): one
        for (task, index), one in zip(jobs, done, strict=True)
        if isinstance(one, str)
    }
    return _results(tasks, [one for one in done if isinstance(one, ImageResult)], unreadable, protocol, metrics)


def _pairs(
    jobs: Sequence[tuple[Task, int]], pairs: Pairs, processes: Processes
) -> Iterator[tuple[int, Callable[[], tuple[Tensor, Tensor]]]]:
    """The numbers of this process's jobs, and how the pair of each is had.

    Others' pairs are had too where what is drawn for them counts for later ones.
    """
    for number, (task, index) in enumerate(jobs):
        if number % processes.count == processes.rank:
            yield number, lambda task=task, index=index: pairs(task, index)  # type: ignore[misc]
        elif pairs.must_see(task):
            try:
                pairs(task, index)
            except Exception:  # whose process names it
                continue


def _lack_of_memory(tile_above: float) -> str:
    return (
        f"Out of memory. Images of up to {tile_above:g} megapixels are restored whole, larger ones in tiles, which "
        "take less; `hairify evaluate` has `tile_above`."
    )


@dataclass
class _Measuring:
    """Restores and measures one image after the other."""

    network: nn.Module
    multiple: int
    protocol: Protocol
    metrics: Sequence[Metric]
    tile_above: float
    inputs: InputScores

    def __call__(
        self, task: Task, index: int, pair: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[ImageResult, tuple[Tensor, Tensor, Tensor]]:
        """One image: its numbers, and the degraded, clean and restored image."""
        degraded, clean = pair()
        if not (degraded.isfinite().all() and clean.isfinite().all()):
            raise ImageError("It, or its clean image, has values that are not finite.")
        if (before := self.inputs.get((task.name, index))) is None:
            before = self._numbers(degraded, clean)
        height, width = degraded.shape[1:]
        tiled = height * width > self.tile_above * 1e6
        restored = self._restored(degraded[None], tiled)[0]
        after = self._numbers(restored, clean)
        self.inputs[task.name, index] = before
        files = task.files(index)
        names = str(files[0] or files[1]), str(files[1])
        result = ImageResult(task.name, *names, (width, height), tiled, before, after)
        return result, (degraded, clean, restored)

    def _restored(self, image: Tensor, tiled: bool) -> Tensor:
        if tiled:
            release_memory()  # reading and degrading an image takes twice what it leaves
            return restore_tiled(self.network, image, tiling_for(self.multiple), self.multiple)
        return restore_whole(self.network, image, self.multiple)

    def _numbers(self, image: Tensor, clean: Tensor) -> Numbers:
        compared = [without_border(one, self.protocol) for one in (image, clean)]
        own = asdict(score(image, clean, self.protocol))
        return own | {metric.name: metric(*compared) for metric in self.metrics}


def _score(numbers: Mapping[str, float]) -> Score:
    return Score(numbers["psnr"], numbers["ssim"])


def _results(
    tasks: Sequence[Task],
    images: Sequence[ImageResult],
    unreadable: dict[str, str],
    protocol: Protocol,
    metrics: Sequence[Metric],
) -> Results:
    if not images:
        raise DataError(
            "There is nothing to evaluate: "
            + "; ".join(f"None of the {len(task.clean)} images of {task.name!r} can be restored" for task in tasks)
            + f". The reasons: {unreadable}"
        )
    by_task = {task.name: [one for one in images if one.task == task.name] for task in tasks}
    by_task = {name: of_one for name, of_one in by_task.items() if of_one}
    return Results(
        scores={name: mean([_score(one.after) for one in of_one]) for name, of_one in by_task.items()},
        counts={name: len(of_one) for name, of_one in by_task.items()},
        inputs={name: mean([_score(one.before) for one in of_one]) for name, of_one in by_task.items()},
        unreadable=unreadable,
        protocol=protocol.title,
        metrics={
            metric.name: {
                name: (_mean(of_one, "before", metric.name), _mean(of_one, "after", metric.name))
                for name, of_one in by_task.items()
            }
            for metric in metrics
        },
        images=tuple(images),
    )


def _mean(images: Sequence[ImageResult], when: str, metric: str) -> float:
    return sum(getattr(one, when)[metric] for one in images) / len(images)
