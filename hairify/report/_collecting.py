"""Finding out what a report shows: GIVs, selecting vectors and restored images of test data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn

from hairify._support.counting import count
from hairify._support.modes import evaluation_mode
from hairify.data.datasets import Task, load_pair
from hairify.data.degradations import degradation
from hairify.data.images import read_rgb
from hairify.errors import DataError, NetworkError
from hairify.evaluation._crops import conditioning_on, middle
from hairify.evaluation._results import Results
from hairify.evaluation._scores import score
from hairify.model import HairModel
from hairify.report._findings import Baseline, Curves, Example, Findings, GIVFindings
from hairify.report._logs import read_log
from hairify.report._projecting import project
from hairify.report._settings import ReportSettings
from hairify.restoring._failures import OF_WHOLE_IMAGE, failure_in_words
from hairify.restoring._settings import TilingSettings
from hairify.restoring._tiling import giv_of, restore_whole

_Source = TypeVar("_Source")


def collect(
    model: nn.Module,
    tasks: Sequence[Task],
    settings: ReportSettings | None = None,
    *,
    multiple: int,
    title: str,
    facts: Mapping[str, str] | None = None,
    results: Results | None = None,
    baseline: Baseline | None = None,
    log: Path | None = None,
    on_part: Callable[[str], None] = lambda _: None,
) -> Findings:
    """Find out all that a report shows.

    The model runs in evaluation mode without gradients, where its parameters are, and is put back into its mode.

    Args:
        model: a HairModel, or a static network, of which a report shows less.
        tasks: test data. GIVs are taken by their degradations, in their order.
        settings: how much is shown; None, the defaults.
        multiple: of which images' sides must be multiples for the model.
        title: the network's name.
        facts: what else is to be said of it, {what: value}.
        results: of its evaluation.
        baseline: what they are compared with, evaluated on the same images.
        log: the run's log.jsonl; None, or a file that does not exist: there are no curves.
        on_part: is told in words what is worked on next.

    Raises:
        DataError: a degradation is not known, no image can be read, the log cannot be read, or the baseline
            was evaluated on other images, or the model not at all.
    """
    settings = settings or ReportSettings()
    if baseline is not None:
        _check_comparable(results, baseline)
    unreadable: dict[str, str] = {}
    with evaluation_mode(model), torch.no_grad():
        conditioning = use = None
        if isinstance(model, HairModel) and tasks:
            on_part("use of the GIV")
            use = conditioning_on(model, tasks, multiple=multiple, seed=settings.report_seed)
            crops = _Crops(tasks, settings, unreadable)
            conditioning = _conditioning(model, crops, settings, multiple, on_part, unreadable)
        examples = _examples(model, tasks, settings, multiple, on_part, unreadable)
    return Findings(
        title=title,
        parameters=count(model),
        facts=dict(facts or {}),
        tasks={task.name: task.degradation for task in tasks},
        plan=model.plan if isinstance(model, HairModel) else None,
        conditioning=conditioning,
        examples=examples,
        results=results,
        curves=read_log(log) if log is not None and log.exists() else Curves(),
        unreadable=unreadable,
        use=use,
        baseline=baseline,
    )


def _check_comparable(results: Results | None, baseline: Baseline) -> None:
    if results is None:
        raise DataError(
            f"There is nothing to compare with {baseline.name}: the model has no results. Evaluate it first, as "
            "`hairify evaluate` does."
        )
    if results.protocol != baseline.results.protocol:
        raise DataError(
            f"The model was evaluated by the protocol {results.protocol}, {baseline.name} by "
            f"{baseline.results.protocol}. Evaluate both by the same."
        )
    if dict(results.counts) != dict(baseline.results.counts):
        raise DataError(
            f"The model was evaluated on {_counted(results)}, {baseline.name} on {_counted(baseline.results)}. "
            "Evaluate both on the same images."
        )
    for name, given in results.inputs.items():
        other = baseline.results.inputs[name]
        if not (
            math.isclose(given.psnr, other.psnr, abs_tol=0.01) and math.isclose(given.ssim, other.ssim, abs_tol=0.001)
        ):
            raise DataError(
                f"The images of {name!r} have {given.psnr:.2f} dB as they are given to the model, those of "
                f"{baseline.name} {other.psnr:.2f} dB. Evaluate both on the same images, with the same seed."
            )


def _counted(results: Results) -> str:
    return ", ".join(f"{count} of {name!r}" for name, count in results.counts.items())


def _conditioning(
    model: HairModel,
    source: _Crops,
    settings: ReportSettings,
    multiple: int,
    on_part: Callable[[str], None],
    unreadable: dict[str, str],
) -> GIVFindings:
    singles = source.degradations
    composites = tuple(
        name for name in settings.composites if name not in singles and set(name.split("+")) <= set(singles)
    )
    missing = [name for name in settings.composites if name not in (*singles, *composites)]
    notes = [f"Not drawn, as the test data lack a part of them: {', '.join(missing)}."] if missing else []
    crops, givs, vectors = {}, {}, {}
    for name in (*singles, *composites):
        on_part(f"GIVs of {name}")
        try:
            own = _givs(model, source, source.degraded(name), multiple, unreadable)
        except DataError as error:
            notes.append(f"Not drawn: {name}. {error}")
            continue
        crops[name] = tuple(own)
        given = torch.cat(list(own.values()))
        givs[name] = given.float().cpu()
        vectors[name] = _mean_vectors(model, given)
    composites = tuple(name for name in composites if name in givs)
    if len(givs) == len(composites):
        raise DataError(f"There are no GIVs to show. {' '.join(notes)}")
    on_part("t-SNE")
    projections = project(givs, composites, settings.report_seed)
    return GIVFindings(crops, givs, vectors, composites, projections, tuple(notes))


def _givs(
    model: HairModel, source: _Crops, crops: Mapping[str, Tensor], multiple: int, unreadable: dict[str, str]
) -> dict[str, Tensor]:
    """The GIVs (1, D) of crops (3, h, w), but for those that the network cannot be run on.

    Raises:
        DataError: none is left.
    """
    found: dict[str, Tensor] = {}
    for name, image in crops.items():
        try:
            giv = giv_of(model, image[None], TilingSettings(), multiple)
            if not giv.isfinite().all():
                raise NetworkError("Its GIV is not finite.")
            found[name] = giv
        except Exception as error:
            unreadable[str(source.files[name])] = failure_in_words(error, OF_WHOLE_IMAGE)
    if not found:
        raise DataError(f"The network made GIVs of none of {len(crops)} crops.")
    return found


def _mean_vectors(model: HairModel, givs: Tensor) -> dict[str, Tensor]:
    """The mean selecting vector (N,) of each block over GIVs (count, D)."""
    per_level = [hsn(givs).float().cpu().mean(0) for hsn in model.hsn]
    return {
        block: mean[m]
        for level, mean in zip(model.plan.levels, per_level, strict=True)
        for m, block in enumerate(level.blocks)
    }


class _Crops:
    """Crops of test images, each with a name; where degradations are synthesised, the same crops for each of them."""

    def __init__(self, tasks: Sequence[Task], settings: ReportSettings, unreadable: dict[str, str]) -> None:
        self.degradations = tuple(dict.fromkeys(task.degradation for task in tasks))
        self._tasks, self._settings, self._unreadable = tasks, settings, unreadable
        self.files: dict[str, Path] = {}  # by the names of the crops
        self._clean: dict[tuple[Path, ...], dict[str, Tensor]] = {}

    def degraded(self, name: str) -> dict[str, Tensor]:
        """{crop's name: crop (3, h, w)} of a degradation: of its own images, else synthesised on clean ones."""
        own = [task for task in self._tasks if task.degradation == name]
        if paired := [(task, index) for task in own if task.degraded for index in range(len(task.clean))]:
            return self._cut(paired, lambda pair: load_pair(*pair)[0], lambda pair: _file(*pair))
        # Rain and haze of data sets are in the images already, so composites are made on clean photographs if possible.
        clean = own or [task for task in self._tasks if task.degraded is None] or self._tasks
        paths = tuple(dict.fromkeys(path for task in clean for path in task.clean))
        if paths not in self._clean:
            self._clean[paths] = self._cut(paths, read_rgb, lambda path: path)
        degrade, generator = degradation(name), Generator().manual_seed(self._settings.report_seed)
        return {crop: degrade(image[None], generator)[0] for crop, image in self._clean[paths].items()}

    def _cut(
        self, sources: Sequence[_Source], load: Callable[[_Source], Tensor], path_of: Callable[[_Source], Path]
    ) -> dict[str, Tensor]:
        """Crops at random places of evenly spaced images, one of each or, where these are few, several."""
        count, generator = self._settings.givs_per_degradation, Generator().manual_seed(self._settings.report_seed)
        crops: dict[str, Tensor] = {}
        reason = ""
        for i in range(wanted := min(count, len(sources))):
            source = sources[i * len(sources) // wanted]
            try:
                image = load(source)
            except Exception as error:
                reason = self._unreadable[str(path_of(source))] = failure_in_words(error, OF_WHOLE_IMAGE)
                continue
            for _ in range(count // wanted + (i < count % wanted)):
                crop, left, top = _random_crop(image, self._settings.giv_crop, generator)
                name = f"{path_of(source).name}, crop {len(crops) + 1} at ({left}, {top})"
                crops[name], self.files[name] = crop, path_of(source)
        if not crops:
            raise DataError(f"None of {wanted} test images can be read. The last one: {reason}")
        return crops


def _file(task: Task, index: int) -> Path:
    """The degraded image, or the clean one on which the degradation is synthesised."""
    degraded, clean = task.files(index)
    return degraded or clean


def _random_crop(image: Tensor, side: int, generator: Generator) -> tuple[Tensor, int, int]:
    """A crop (3, h, w) of an image, both sides at most `side`, and its left and top."""
    height, width = (min(side, have) for have in image.shape[1:])
    top = int(torch.randint(image.shape[1] - height + 1, (), generator=generator))
    left = int(torch.randint(image.shape[2] - width + 1, (), generator=generator))
    return image[:, top : top + height, left : left + width].clone(), left, top


def _examples(
    model: nn.Module,
    tasks: Sequence[Task],
    settings: ReportSettings,
    multiple: int,
    on_part: Callable[[str], None],
    unreadable: dict[str, str],
) -> tuple[Example, ...]:
    """The middle of the first images of each degradation that can be read, before and after."""
    found: list[Example] = []
    for name in dict.fromkeys(task.degradation for task in tasks):
        own = [(task, index) for task in tasks if task.degradation == name for index in range(len(task.clean))]
        wanted = len(found) + settings.examples
        for task, index in own:
            if len(found) == wanted:
                break
            on_part(f"restoring {task.name}")
            try:
                degraded, clean = (middle(image, settings.example_side) for image in load_pair(task, index))
                before = score(degraded, clean)
                restored = restore_whole(model, degraded[None], multiple)[0]
            except Exception as error:
                unreadable[str(_file(task, index))] = failure_in_words(error, OF_WHOLE_IMAGE)
                continue
            after = score(restored, clean)
            found.append(Example(task.name, _file(task, index).name, clean, degraded, restored, before, after))
    return tuple(found)
