"""`hairify train`."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from hairify import HairModel
from hairify._support.counting import count
from hairify._support.files import write_text
from hairify.cli import INTERRUPTED
from hairify.cli._common import CONFIG, check_output, console, say, say_left_out
from hairify.cli.options import in_flags, to_toml
from hairify.data.datasets import DataSettings, Task, test_tasks, training_tasks
from hairify.data.samples import samples_for
from hairify.errors import DataError, HairError, TrainingError
from hairify.evaluation._conditioning import Conditioning
from hairify.evaluation._scores import conditioning_on, evaluate
from hairify.networks._named import NetworkSettings
from hairify.networks._sizes import smallest_multiple
from hairify.sharing._hub import Restorer, from_pretrained, save_pretrained
from hairify.training import TrainingSettings, processes, train


def run(
    network: NetworkSettings,
    data: DataSettings,
    training: TrainingSettings,
    output: Annotated[Path, typer.Option(help="folder of the run; must be new, or hold the run to --resume")],
    resume: Annotated[bool, typer.Option("--resume", help="go on from the run's last checkpoint")] = False,
) -> int:
    """Convert a network and train it on photographs, by the paper's recipe where nothing else is said, or by another.

    Images that cannot be learnt from, or be validated on, are named and left out, and the exit status is 1 at the end.

    [dim]hairify train --data photographs --output run
    hairify train --data photographs --output run --network my_nets:UNet --weights trained.pth --freeze-base
    hairify train --recipe modern --data photographs --output run
    hairify train --output run --resume
    accelerate launch --num_processes 8 -m hairify train --data data --output run[/dim]
    """
    check_output(output)
    tasks = training_tasks(data)
    tests, without = _held_out(data) if training.validate_every else ([], "")
    model = network.restorer(training.seed)
    state = processes(training)
    if state.is_main_process:
        _introduce(model, tasks, tests)
        if without:
            say(("note", "yellow"), f" There is no validation. {without}")
    multiple = smallest_multiple(model.to(state.device))

    def restorer(steps: int) -> Restorer:
        return Restorer(model, network.named(), multiple, network.own_dac, facts(tasks, training, steps))

    def start() -> None:
        output.mkdir(parents=True, exist_ok=True)
        _rehearse_end(restorer(0), output)
        write_text(output / CONFIG, to_toml(network, data, training), errors="surrogateescape")

    look = _Looks(tests, multiple)
    samples = samples_for(tasks, data, training.seed)
    done = train(
        model,
        samples,
        training,
        output=output,
        validate=look.validate if tests else None,
        measure=look.measure if tests else None,
        resume=resume,
        on_start=start,
        console=console if state.is_main_process else None,
    )
    if state.is_main_process:
        say_left_out(done.unreadable)
    if done.interrupted:
        if state.is_main_process:
            say(f"Stopped after step {done.steps}. Go on with: hairify train --output {output} --resume")
        return INTERRUPTED
    if state.is_main_process:
        save_pretrained(restorer(done.steps), output / "model")
        say("The restorer is in ", (str(output / "model"), "bold"), f"; next: hairify evaluate {output}")
    return int(bool(look.left_out or done.unreadable))


def facts(tasks: Sequence[Task], training: TrainingSettings, steps: int) -> dict[str, str]:
    """What a reader should know of a training."""
    files = {path for task in tasks for path in task.clean}
    in_shards = {task.shards for task in tasks if task.shards is not None}
    return {
        "degradations": ", ".join(task.degradation for task in tasks),
        "images": f"{len(files) + sum(shards.count for shards in in_shards):,}",
        "steps": f"{steps:,} of {training.batch_in_words()}",
        "learning rate": training.rate_in_words(),
        "seed": str(training.seed),
    }


def _rehearse_end(restorer: Restorer, output: Path) -> None:
    """Make sure that the restorer of a run, here before its first step, can be written and opened again.

    Raises:
        TrainingError: it cannot.
    """
    name = None if restorer.network.is_built_in else restorer.network.name
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=output) as folder:
        try:
            save_pretrained(restorer, Path(folder))
            from_pretrained(folder, network=name, dac=restorer.dac)
        except HairError as error:
            raise TrainingError(f"The run would end without a restorer that can be opened: {error}") from error


def _held_out(data: DataSettings) -> tuple[list[Task], str]:
    """What to validate on; or nothing, and why: the data have no test half, and no test data were asked for."""
    try:
        return test_tasks(data), ""
    except DataError as error:
        if data.test_data:
            raise
        return [], in_flags(str(error), {"test_data", "data"})


def _introduce(model: nn.Module, tasks: Sequence[Task], tests: Sequence[Task]) -> None:
    parameters = count(model)
    if isinstance(model, HairModel):
        before, after = model.plan.parameters
        boxes = ", ".join(f"{level.name} (N = {level.box_size})" for level in model.plan.levels[:6])
        more = f" and {len(model.plan.levels) - 6} more" if len(model.plan.levels) > 6 else ""
        say(
            ("network", "bold"),
            f"  {type(model.base).__name__}, {before:,} -> {after:,} parameters, split after {model.plan.split}, "
            f"levels {boxes}{more}",
        )
        if model.plan.warning:
            say(("note", "yellow"), f" {model.plan.warning}")
    else:
        say(("network", "bold"), f"  {type(model).__name__}, {parameters:,} parameters, not converted")
    for title, those in (("training", tasks), ("held out", tests)):
        listed = ", ".join(f"{task.name} ({task.count})" for task in those)
        if listed:
            say((f"{title:8}", "bold"), f" {listed}")


@dataclass
class _Looks:
    """What is seen of a network under way on the test images; those that fail are left out, and end nothing.

    Attributes:
        tests: the images.
        multiple: of which their sides must be multiples for the network.
        left_out: {image: reason}.
    """

    tests: Sequence[Task]
    multiple: int
    left_out: dict[str, str] = field(default_factory=dict)

    def validate(self, model: nn.Module) -> dict[str, dict[str, float]]:
        """The scores of the tasks."""
        try:
            results = evaluate(model, self.tests, multiple=self.multiple)
        except DataError as error:  # it may be another with the weights of later steps
            say(("note", "yellow"), f" There are no scores. {error}")
            self.left_out.setdefault("all test images", str(error))
            return {}
        say_left_out({path: reason for path, reason in results.unreadable.items() if path not in self.left_out})
        self.left_out |= results.unreadable
        return {name: dataclasses.asdict(one) for name, one in results.scores.items()}

    def measure(self, model: HairModel) -> Conditioning | None:
        """Whether it uses its GIV."""
        return conditioning_on(model, self.tests, multiple=self.multiple, without=self.left_out)
