"""The demo: a trained network goes on as it is and converted; both are compared on held-out photographs.

The photographs are files inside the wheels of scikit-image and scikit-learn; nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from torch import nn

from hairify._support.counting import count
from hairify._support.files import write_text
from hairify.ablation.running import AblationSettings, ablate
from hairify.ablation.tables import AblationTable
from hairify.data.datasets import Task
from hairify.data.photographs import TRAINING, photographs
from hairify.data.samples import TrainingSamples
from hairify.evaluation._crops import conditioning_on, crops_of, known_givs_on
from hairify.evaluation._results import Results
from hairify.evaluation._running import evaluate
from hairify.evaluation._scores import Score
from hairify.model import HairModel
from hairify.networks._named import NetworkSettings
from hairify.report import Baseline, ReportSettings, collect, write_report
from hairify.sharing._hub import Restorer, from_pretrained, save_pretrained
from hairify.training import TrainedRun, TrainingSettings, train

DEGRADATIONS = ("noise25", "rain", "haze", "defocus", "low_light")

NETWORK = NetworkSettings(network="unet")

MULTIPLE = 4

REPORT = ReportSettings()

PATCH = 48
"""Side of a training patch in pixels."""

_CACHE = 2**28  # bytes; the few photographs take 20 MB


def tasks(names: Sequence[str], degradations: Sequence[str] = DEGRADATIONS) -> list[Task]:
    """The photographs under each degradation."""
    paths = photographs(names)
    return [Task(name, name, paths, None) for name in degradations]


def demonstrate(
    output: Path,
    *,
    before: int,
    steps: int,
    seed: int,
    patches: int,
    held_out: Sequence[str],
    console: Console,
) -> AblationTable:
    """Trains a network, then goes on with it as it is and converted, prints the scores, and writes all that came of it.

    Args:
        output: a folder; it is touched only when everything is ready to be put there.
        before: steps of the network's training before it is converted.
        steps: that either takes after it.
        seed: of weights, patches and degradations.
        patches: of each degradation in a step.
        held_out: the photographs to evaluate on, of `HELD_OUT`.
        console: where progress is shown.

    Returns:
        The scores: "static" and "both".

    Raises:
        DataError: a package lacks a photograph.
        OSError: the output cannot be written.
    """
    tested = tasks(held_out)
    with _written_at_once(output) as folder:

        def run(model: nn.Module, _: int, name: str) -> Mapping[str, Score]:
            # The rates of the end of a training: both go on with what is learned already, on the same new patches.
            done = _trained(model, folder / name, _settings(steps, patches, seed + 1, 5e-4, 5e-5), console)
            results = _evaluated(done.model, tested, seed, console)
            about = {
                "degradations": ", ".join(DEGRADATIONS),
                "steps": f"{before} unconverted, then {steps}",
                "seed": str(seed),
            }
            givs = None
            if isinstance(done.model, HairModel) and (crops := crops_of(tasks(TRAINING), multiple=MULTIPLE, seed=seed)):
                givs = known_givs_on(done.model, crops)
            restorer = Restorer(done.model, NETWORK.named(), MULTIPLE, about=about, results=results, givs=givs)
            save_pretrained(restorer, folder / name / "model")
            return results.scores

        console.print(
            "A small U-Net is trained, then goes on twice on the same patches: as it is ([bold]static[/bold]) and "
            "converted ([bold]both[/bold]: DAC and HSNs)."
        )
        first = _settings(before, patches, seed, 1e-3, 1e-3)
        network = _trained(NETWORK.build(seed), folder / "before", first, console).model
        settings = AblationSettings(variants=("static", "both"), seeds=1)
        table = ablate(lambda _: network, settings, run, folder=folder / "scores")
        write_text(folder / "ablation.json", table.to_json())
        write_text(folder / "ablation.md", table.to_markdown())
        with console.status("writing the report"):
            write_demo_report(folder, tested)
    console.print(table.table())
    console.print(f"Open {output / 'report.html'}; the table is in {output / 'ablation.md'}.", markup=False)
    return table


def _trained(model: nn.Module, folder: Path, settings: TrainingSettings, console: Console) -> TrainedRun:
    console.print(f"[bold]{folder.name}[/bold]: {count(model):,} parameters")
    samples = TrainingSamples(tasks(TRAINING), PATCH, settings.seed, _CACHE)
    done = train(model, samples, settings, output=folder, console=console)
    if done.interrupted:
        raise KeyboardInterrupt
    shutil.rmtree(folder / "checkpoints")
    return done


def _evaluated(model: nn.Module, tested: Sequence[Task], seed: int, console: Console) -> Results:
    results = evaluate(model, tested, multiple=MULTIPLE, seed=seed)
    if not isinstance(model, HairModel):
        return results
    found = conditioning_on(model, tested, multiple=MULTIPLE, seed=seed)
    console.print(str(found), markup=False)
    return dataclasses.replace(results, conditioning=found.plain() if found else None)


def _settings(steps: int, patches: int, seed: int, rate: float, final_rate: float) -> TrainingSettings:
    return TrainingSettings(
        steps=steps,
        learning_rate=rate,
        final_learning_rate=final_rate,
        clip_norm=1.0,
        ema_decay=0.99,
        batch_size=patches * len(DEGRADATIONS),
        validate_every=0,
        save_every=max(steps, 1),
        workers=0,
        seed=seed,
        log_with=(),
        cpu=True,
    )


def write_demo_report(folder: Path, tested: Sequence[Task]) -> None:
    """The report on the converted network, compared with the unconverted one, beside the other results."""
    restorer = from_pretrained(folder / "both")
    unconverted = from_pretrained(folder / "static").results
    assert isinstance(restorer.model, HairModel)
    assert unconverted is not None
    findings = collect(
        restorer.model,
        tested,
        REPORT,
        multiple=MULTIPLE,
        title="hairify demo",
        facts=restorer.about,
        results=restorer.results,
        baseline=Baseline("the unconverted network", unconverted),
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
