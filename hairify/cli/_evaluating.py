"""An evaluation from the command line: what it shows, and where its numbers and images go."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from torch import Tensor

from hairify import HairModel
from hairify._support.files import write_text
from hairify.cli._common import CONFIG, console, device_named, progress, say, say_left_out
from hairify.cli.options import make_settings, read_tables, table_name
from hairify.data._image import Image
from hairify.data._settings import DataSettings
from hairify.data.datasets import Task, test_tasks
from hairify.data.images import write
from hairify.errors import ImageError, OptionError
from hairify.evaluation._choosing import Chosen, choose_tasks
from hairify.evaluation._conditioning import NOT_MEASURED
from hairify.evaluation._crops import conditioning_on
from hairify.evaluation._metrics import metric_named
from hairify.evaluation._results import Results
from hairify.evaluation._running import evaluate
from hairify.evaluation._scores import Score
from hairify.evaluation._settings import EvaluationSettings
from hairify.restoring import Processes
from hairify.sharing._hub import Restorer, save_results

_IMAGES = ("data", "test_data", "pairs", "test_pairs")
_TESTED_ON = (*_IMAGES, "degradations", "hold_out", "mix_synthetic")


def evaluate_restorer(
    restorer: Restorer,
    data: DataSettings,
    evaluation: EvaluationSettings,
    place: Place,
    device: str,
    save_images: Path | None,
    processes: Processes,
) -> int:
    """Measure a restorer, and say and write what came of it: `hairify evaluate`.

    Args:
        restorer: on its device.
        data: where test images are looked for.
        evaluation: how they are measured.
        place: where the numbers go.
        device: on which metrics run.
        save_images: the folder for restored images.
        processes: that share the images.

    Returns:
        The exit status.

    Raises:
        HairError: something is not accepted, or nothing is found.
    """
    metrics = [metric_named(name, device_named(device)) for name in evaluation.metrics]
    chosen = choose_tasks(test_tasks(evaluation.on(data)), evaluation)
    keep = _Keeping(save_images)
    with progress("evaluating", len(processes.mine(range(sum(len(one.clean) for one in chosen.tasks))))) as advance:

        def on_image(task: Task, score: Score) -> None:
            advance(f"{task.name} {score.psnr:.2f} dB")

        results = evaluate(
            restorer.model,
            chosen.tasks,
            multiple=restorer.multiple,
            seed=evaluation.evaluation_seed,
            protocol=evaluation.measured,
            metrics=metrics,
            tile_above=evaluation.tile_above,
            processes=processes,
            on_image=on_image,
            keep=keep if save_images else None,
        )
    not_kept = {place: reason for one in processes.everywhere(keep.failed) for place, reason in one.items()}
    results = dataclasses.replace(results, setting=evaluation.setting, missing=chosen.missing)
    if processes.is_main:
        console.print(results.table())
        _say(results, chosen, not_kept)
        results = _with_conditioning(results, restorer, chosen, evaluation)
        place.write(dataclasses.replace(restorer, results=results), results)
    processes.everywhere(None)  # the others wait for what the main one writes
    return int(bool(results.unreadable or not_kept or results.missing))


@dataclasses.dataclass
class _Keeping:
    """Writes restored images.

    Attributes:
        folder: where.
        failed: {file: why it could not be written}.
    """

    folder: Path | None
    failed: dict[str, str] = dataclasses.field(default_factory=dict)

    def __call__(self, task: Task, index: int, degraded: Tensor, clean: Tensor, restored: Tensor) -> None:
        assert self.folder is not None
        source = task.files(index)[0] or task.clean[index]
        place = self.folder / task.name.replace("/", "_") / f"{index:04}_{source.stem}.png"  # stems come twice
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write(Image(restored), place)
        except (ImageError, OSError) as error:  # as on a full disk: its score is there all the same
            self.failed[str(place)] = str(error)


def _with_conditioning(results: Results, restorer: Restorer, chosen: Chosen, evaluation: EvaluationSettings) -> Results:
    """The results, and of a HairModel whether it uses its GIV."""
    if not isinstance(restorer.model, HairModel):
        return results
    found = conditioning_on(
        restorer.model,
        chosen.tasks,
        multiple=restorer.multiple,
        seed=evaluation.evaluation_seed,
        without=results.unreadable,
    )
    if found is None:
        say(NOT_MEASURED)
        return results
    say(str(found))
    if advice := found.advice(restorer.model):
        say(("note", "yellow"), f" {advice}")
    return dataclasses.replace(results, conditioning=found.plain())


def _say(results: Results, chosen: Chosen, not_kept: dict[str, str]) -> None:
    say_left_out(results.unreadable)
    for place, reason in [*not_kept.items()][:1]:
        say(("not saved", "yellow"), f" {len(not_kept)} restored image(s), such as {place}: {reason}")
    for task in chosen.tasks:
        if task.name not in results.scores:
            say(("note", "yellow"), f" {task.name} has no scores: none of its images could be restored.")
    if chosen.missing:
        say(
            ("missing", "yellow"),
            f" {', '.join(chosen.missing)} of the setting {results.setting}: the average is of the others.",
        )
    if chosen.stray:
        say(("note", "yellow"), f" Found, and not measured: {', '.join(chosen.stray)}.")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the numbers go.

    Attributes:
        folder: for the files; None: nowhere.
        card: the folder of the restorer whose card gets them; None: that stays as it is.
    """

    folder: Path | None
    card: Path | None

    @classmethod
    def of(
        cls,
        model: Path | None,
        data: DataSettings,
        evaluation: EvaluationSettings,
        output: Path | None,
        card: bool | None,
    ) -> Place:
        """By what is evaluated: numbers on other data, or by another protocol, are not those of the card.

        Raises:
            OptionError: a card is asked for that is not in a folder here.
        """
        if model is None:
            if card:
                raise OptionError("--card is for folders of yours; the restorer in hairify keeps its card.")
            return cls(output, None)
        is_run = (model / "model").is_dir()
        restorer = model / "model" if is_run else model
        if card and not restorer.is_dir():
            raise OptionError(f"--card is for folders; {model} is none here. Give the folder of a restorer.")
        own = is_run and _is_what_was_held_out(model / CONFIG, data, evaluation)
        folder = output
        if folder is None and is_run:
            folder = model if own else model / "evaluations" / _name(data, evaluation, model / CONFIG)
        return cls(folder, restorer if (own if card is None else card) else None)

    def write(self, restorer: Restorer, results: Results) -> None:
        """Write everything."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "results.json", results.to_json())
            write_text(self.folder / "results.md", f"{results.about}.\n\n{results.to_markdown()}")
            write_text(self.folder / "results.csv", results.to_csv())
            say(f"The numbers are in {self.folder / 'results.json'}, and results.md and results.csv beside it.")
        elif self.card is None:
            say("The numbers are in no file; --output names a folder for them.")
        if self.card is not None:
            save_results(restorer, self.card)
        elif self.folder is not None:
            say("The model card keeps the numbers that it has; --card puts these on it.")


def _own(config: Path) -> DataSettings | None:
    """The data that a run was begun with."""
    return (
        make_settings(DataSettings, read_tables(config).get(table_name(DataSettings), {}), {})
        if config.is_file()
        else None
    )


def _is_what_was_held_out(config: Path, data: DataSettings, evaluation: EvaluationSettings) -> bool:
    """Whether a run is measured on what it held out, and in hairify's own way."""
    usual = EvaluationSettings(metrics=evaluation.metrics, tile_above=evaluation.tile_above)
    own = _own(config)
    return evaluation == usual and own is not None and all(getattr(own, n) == getattr(data, n) for n in _TESTED_ON)


def _name(data: DataSettings, evaluation: EvaluationSettings, config: Path) -> str:
    """A name for other numbers of a run, by what makes them others."""
    own, usual = _own(config), EvaluationSettings()
    parts: list[str] = [evaluation.protocol, *([evaluation.setting] if evaluation.setting else [])]
    if own is None or any(getattr(own, n) != getattr(data, n) for n in _IMAGES):
        named = bool(data.test_data or data.test_pairs)
        parts += [path.absolute().name for path in (data.test_data if named else data.data)]
        parts += [text.partition(",")[0] for text in (data.test_pairs if named else data.pairs)]
    if own is not None and own.degradations != data.degradations:
        parts += data.degradations
    if own is not None and own.hold_out != data.hold_out:
        parts.append(f"hold-out {data.hold_out:g}")
    parts += [f"on top {name}" for name in evaluation.on_top]
    parts += [
        f"{name} {now}"
        for name in ("border", "evaluation_seed")
        if (now := getattr(evaluation, name)) != getattr(usual, name)
    ]
    return re.sub(r"[^\w.+]+", "-", " ".join(parts))[:200]
