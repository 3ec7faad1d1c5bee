"""An ablation from the command line: its runs, in one folder, and their table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from hairify._support.counting import count
from hairify._support.files import write_text
from hairify.ablation.running import AblationSettings, ablate
from hairify.ablation.tables import Run
from hairify.cli._common import CONFIG, check_output, console, say, say_left_out
from hairify.cli.options import table_name, to_toml
from hairify.data._order import family
from hairify.data.datasets import DataSettings, Task, test_tasks, training_tasks
from hairify.data.samples import samples_for
from hairify.errors import OptionError
from hairify.evaluation._results import AVERAGE
from hairify.evaluation._running import InputScores, evaluate
from hairify.evaluation._scores import Score
from hairify.networks._named import NetworkSettings
from hairify.networks._sizes import smallest_multiple
from hairify.restoring._processes import together as sharing
from hairify.training import TrainingSettings, is_begun, processes, train


def ablate_network(
    network: NetworkSettings,
    data: DataSettings,
    training: TrainingSettings,
    ablation: AblationSettings,
    output: Path,
) -> int:
    """Train and compare, or go on with that: `hairify ablate`.

    Args:
        network: from which all variants are made.
        data: what is learnt from and tested on.
        training: how.
        ablation: what is compared.
        output: the folder of all runs.

    Returns:
        The exit status.

    Raises:
        HairError: something is not accepted, or a run fails.
    """
    check_output(output)
    _check(network, output)
    tasks, tests = training_tasks(data), test_tasks(data)
    tested_too = {task.degradation for task in tests}
    samples_for(tasks, data, 0)  # what `repeats` and `shares` have wrong is known before the first run
    base = network.build(0)
    left_out: set[str] = set()
    inputs: InputScores = {}

    def write_config() -> None:
        write_text(output / CONFIG, to_toml(network, data, training, ablation), errors="surrogateescape")

    def train_and_score(model: nn.Module, seed: int, name: str, together: Sequence[str] = ()) -> Mapping[str, Score]:
        say((name, "bold"), f", seed {seed}: {count(model):,} parameters")
        learnt, tested = (
            [task for task in those if not together or task.degradation in together] for those in (tasks, tests)
        )
        samples = samples_for(learnt, _of_these(data, learnt), seed)
        settings = dataclasses.replace(training, seed=seed)
        folder = output / "runs" / f"{name}-{seed}".replace("/", "_")
        resume = is_begun(folder)
        multiple = smallest_multiple(model.to(processes(settings).device))
        done = train(model, samples, settings, output=folder, resume=resume, console=console)
        if done.interrupted:
            raise KeyboardInterrupt
        results = evaluate(done.model, tested, multiple=multiple, inputs=inputs, processes=sharing())
        say_left_out({**done.unreadable, **results.unreadable})
        left_out.update(results.unreadable)
        return results.scores

    def on_run(done: Run, count: int, total: int) -> None:
        average = done.score(AVERAGE)
        scores = f"{average.psnr:.2f} dB / {average.ssim:.3f} on average"
        say((f"{count} of {total}", "bold"), f" {done.row}: {scores}")

    table = ablate(
        network.build,
        ablation,
        train_and_score,
        plan_options=network.plan_options(base),
        sweep_options=network.plan_options(base, any_split=True),
        folder=output / "scores",
        degradations=[name for name in dict.fromkeys(task.degradation for task in tasks) if name in tested_too],
        about={table_name(type(one)): dataclasses.asdict(one) for one in (network, data, training)},
        on_start=write_config,
        on_run=on_run,
    )
    write_text(output / "ablation.json", table.to_json())
    write_text(output / "ablation.md", table.to_markdown())
    console.print(table.table())
    say(f"The table is in {output / 'ablation.json'} and {output / 'ablation.md'}.")
    return int(bool(left_out))


def _of_these(data: DataSettings, tasks: Sequence[Task]) -> DataSettings:
    """The settings for some of the tasks, without what they say of other degradations."""
    shown = {name for task in tasks for name in (task.degradation, family(task.degradation))}
    return dataclasses.replace(
        data,
        repeats={name: times for name, times in data.repeats.items() if name in shown},
        shares={name: share for name, share in data.shares.items() if name in shown},
    )


def _check(network: NetworkSettings, output: Path) -> None:
    if network.network == "res_hair" or not network.convert:
        raise OptionError(
            "An ablation starts from the network before its conversion, and converts it by itself: give another "
            "`network` than res_hair (its own is restormer with the option hair_neck=true), and leave `convert` on."
        )
    if is_begun(output):
        raise OptionError(f"{output} holds a training run; give another folder as `output`.")
