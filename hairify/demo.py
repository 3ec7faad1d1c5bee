"""The demo: a small network trained as it is and converted, compared on held-out photographs, and its report.

The photographs are files inside scikit-image's wheel; nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import skimage
from rich.console import Console
from torch import nn

from hairify.ablation.running import AblationSettings, ablate
from hairify.ablation.tables import AblationTable
from hairify.data.datasets import Task
from hairify.data.samples import TrainingSamples
from hairify.errors import DataError
from hairify.evaluation import Score, evaluate
from hairify.files import write_text
from hairify.model import HairModel
from hairify.networks import NetworkSettings
from hairify.report import ReportSettings, collect, write_report
from hairify.sharing import Restorer, from_pretrained, save_pretrained
from hairify.training import TrainingSettings, train

TRAINING = ("astronaut.png", "motorcycle_left.png", "motorcycle_right.png", "ihc.png", "retina.jpg")
"""Photographs to train on. The motorcycle is one scene seen by two cameras, so both views stay on this side."""

HELD_OUT = ("coffee.png", "chelsea.png", "rocket.jpg")
"""Photographs no network sees before it is evaluated."""

DEGRADATIONS = ("noise25", "rain", "haze")

NETWORK = NetworkSettings(
    network="restormer",
    options={"dim": 16, "num_blocks": [1, 1, 2, 2], "num_refinement_blocks": 1},
)
"""A Restormer of about a million parameters; sides of its images are multiples of 8."""

MULTIPLE = 8

REPORT = ReportSettings()

PATCH = 64
"""Side of a training patch in pixels.

From 64 on, all of the DAC is trained: the feature that it gets, at an eighth, is then large enough for both of its
downsamplings. On smaller patches the second one would be met, untrained, by the larger images later.
"""

_CACHE = 2**28  # bytes; the few photographs take 20 MB


def photographs(names: Sequence[str]) -> tuple[Path, ...]:
    """Where scikit-image's photographs lie; `skimage.data`'s own functions may go to the network.

    Raises:
        DataError: this version of scikit-image does not ship one.
    """
    paths = tuple(Path(str(files(skimage) / "data" / name)) for name in names)
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"scikit-image {version('scikit-image')} does not ship the photograph {path.name!r}; the demo is known "
                "to work with scikit-image 0.26."
            )
    return paths


def tasks(names: Sequence[str], degradations: Sequence[str] = DEGRADATIONS) -> list[Task]:
    """The photographs under each degradation."""
    paths = photographs(names)
    return [Task(name, name, paths, None) for name in degradations]


def demonstrate(
    output: Path, *, steps: int, seed: int, patches: int, held_out: Sequence[str], console: Console
) -> AblationTable:
    """Trains both networks, prints their scores, and writes the table, both restorers and the report.

    Args:
        output: a folder; it is touched only when everything is ready to be put there.
        steps: of each network's training.
        seed: of weights, patches and degradations.
        patches: of each degradation in a step.
        held_out: the photographs to evaluate on, of `HELD_OUT`.
        console: where progress is shown.

    Returns:
        The scores: "static" and "both".

    Raises:
        DataError: scikit-image lacks a photograph.
        OSError: the output cannot be written.
    """
    learnt, tested = tasks(TRAINING), tasks(held_out)
    training = TrainingSettings(
        steps=steps,
        learning_rate=1e-3,  # five times the paper's, for a run this short; without the clipping some runs diverge
        final_learning_rate=1e-4,
        clip_norm=1.0,
        batch_size=patches * len(DEGRADATIONS),
        validate_every=0,
        save_every=max(steps, 1),
        workers=0,
        seed=seed,
        tensorboard=False,
        cpu=True,
    )
    with _written_at_once(output) as folder:

        def run(model: nn.Module, _: int, name: str) -> Mapping[str, Score]:
            console.print(f"[bold]{name}[/bold]: {sum(p.numel() for p in model.parameters()):,} parameters")
            samples = TrainingSamples(learnt, PATCH, seed, _CACHE)
            done = train(model, samples, training, output=folder / name, console=console)
            if done.interrupted:
                raise KeyboardInterrupt
            shutil.rmtree(folder / name / "checkpoints")
            results = evaluate(done.model, tested, multiple=MULTIPLE, seed=seed)
            about = {"degradations": ", ".join(DEGRADATIONS), "steps": str(steps), "seed": str(seed)}
            restorer = Restorer(done.model, NETWORK.named(), MULTIPLE, about=about, results=results)
            save_pretrained(restorer, folder / name / "model")
            return results.scores

        console.print(
            "A small Restormer, trained twice from the same weights on the same patches: as it is "
            "([bold]static[/bold]) and converted ([bold]both[/bold]: DAC and HSNs)."
        )
        settings = AblationSettings(variants=("static", "both"), seeds=1)
        table = ablate(lambda _: NETWORK.build(seed), settings, run, folder=folder / "scores")
        write_text(folder / "ablation.json", table.to_json())
        write_text(folder / "ablation.md", table.to_markdown())
        with console.status("writing the report"):
            write_demo_report(folder, tested)
    console.print(table.table())
    console.print(f"Open {output / 'report.html'}; the table is in {output / 'ablation.md'}.", markup=False)
    return table


def write_demo_report(folder: Path, tested: Sequence[Task]) -> None:
    """The report on the converted network, beside the other results."""
    restorer = from_pretrained(folder / "both")
    assert isinstance(restorer.model, HairModel)
    findings = collect(
        restorer.model,
        tested,
        REPORT,
        multiple=MULTIPLE,
        title="hairify demo",
        facts=restorer.about,
        results=restorer.results,
        log=folder / "both" / "log.jsonl",
    )
    write_report(findings, folder / "report.html")


@contextlib.contextmanager
def _written_at_once(output: Path) -> Iterator[Path]:
    """A folder to write to, whose content moves to `output` at the end, unless the block raises: then it vanishes.

    It lies in `output`, or in the nearest folder above it that exists: there an unwritable place shows before minutes
    of training, and moving is one step.
    """
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} exists and is not a folder; name another with --output")
    nearest = next(folder for folder in (output, *output.absolute().parents) if folder.is_dir())
    with tempfile.TemporaryDirectory(prefix=".hairify-demo-", dir=nearest) as name:
        yield Path(name)
        output.mkdir(parents=True, exist_ok=True)
        for made in sorted(Path(name).iterdir()):
            target = output / made.name
            if target.is_dir():
                shutil.rmtree(target)
            made.replace(target)
