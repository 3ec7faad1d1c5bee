"""A training run from the command line: what it starts from, how it is watched, and what it leaves in its folder."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from hairify import HairModel
from hairify._support.counting import count
from hairify._support.files import write_text
from hairify._support.sharding import is_sharded
from hairify.cli import INTERRUPTED
from hairify.cli._common import CONFIG, UNFINISHED, check_output, console, say, say_left_out
from hairify.cli.options import Said, in_flags, make_settings, read_tables, table_name, to_toml
from hairify.data.datasets import DataSettings, Task, test_tasks, training_tasks
from hairify.data.samples import samples_for
from hairify.errors import DataError, HairError, OptionError, TrainingError
from hairify.evaluation._conditioning import Conditioning
from hairify.evaluation._crops import Crops, conditioning_on, crops_of, known_givs_on
from hairify.evaluation._running import InputScores, evaluate
from hairify.networks._named import NetworkSettings
from hairify.networks._sizes import smallest_multiple
from hairify.restoring._known_givs import KnownGIVs
from hairify.restoring._processes import together
from hairify.sharing._hub import Restorer, from_pretrained, save_pretrained
from hairify.training import Start, StartSettings, TrainingSettings, processes, started_from, train
from hairify.training._folders import CHECKPOINTS, MODEL, START
from hairify.training._starting import ORIGIN, begun_again, fresh, resumed

_CROPS_TO_KNOW = 16  # of each degradation, by which a restorer knows its GIVs


def train_restorer(
    network: NetworkSettings,
    start: StartSettings,
    data: DataSettings,
    training: TrainingSettings,
    said: Said,
    output: Path,
    *,
    resume: bool,
) -> int:
    """Begin a run, or go on with one: `hairify train`.

    Args:
        network: which network, and how it is converted.
        start: what a second stage starts from.
        data: what is learnt from and tested on.
        training: how.
        said: what of that the user gave.
        output: the run's folder.
        resume: go on from the last checkpoint.

    Returns:
        The exit status.

    Raises:
        HairError: something is not accepted, or the run cannot go on.
    """
    check_output(output)
    tasks = training_tasks(data)
    tests, without = _held_out(data) if training.validate_every else ([], "")
    begun = _start(network, start, training.seed, said, output, resume)
    model = begun.model
    state = processes(training)
    console.quiet = not state.is_main_process
    if state.is_main_process:
        _introduce(model, tasks, tests, begun.origin)
        if without:
            say(("note", "yellow"), f" There is no validation. {without}")
        for note in begun.notes if not resume else ():
            say(("note", "yellow"), f" {note}")
    multiple = smallest_multiple(model.to(state.device))
    samples = samples_for(tasks, data, training.seed)

    def restorer(steps: int) -> Restorer:
        about = facts(tasks, training, steps, training.total_steps(samples.epoch), begun.origin)
        return Restorer(model, begun.network, multiple, begun.dac, about, givs=known() if steps else None)

    @functools.cache
    def crops() -> Crops | None:
        return crops_of(tasks, multiple=multiple, crops=_CROPS_TO_KNOW, seed=training.seed)

    def known() -> KnownGIVs | None:
        """Where the GIVs lie now of what is learnt."""
        if not isinstance(model, HairModel) or is_sharded(model) or (found := crops()) is None:
            return None
        return known_givs_on(model, found)

    def on_start() -> None:
        output.mkdir(parents=True, exist_ok=True)
        _rehearse_end(restorer(0), output)
        if start.start_from is not None and not resume:
            save_pretrained(restorer(0), output / START)
        write_text(output / CONFIG, to_toml(begun.settings, start, data, training), errors="surrogateescape")

    look = _Looks(tests, multiple)
    done = train(
        model,
        samples,
        training,
        output=output,
        validate=look.validate if tests else None,
        measure=look.measure if tests else None,
        keep=lambda name, steps: save_pretrained(restorer(steps), output / name),
        resume=resume,
        on_start=on_start,
        console=console if state.is_main_process else None,
    )
    if state.is_main_process:
        say_left_out(done.unreadable)
        where = "The restorer is in " if not done.interrupted else "The restorer of this step is in "
        if done.interrupted:
            say(f"Stopped after step {done.steps}. Go on with: hairify train --output {output} --resume")
        say(where, (str(output / MODEL), "bold"), f"; next: hairify evaluate {output}")
    return INTERRUPTED if done.interrupted else int(bool(look.left_out or done.unreadable))


def facts(
    tasks: Sequence[Task], training: TrainingSettings, steps: int, total: int, origin: str | None = None
) -> dict[str, str]:
    """What a reader should know of a training that has taken so many steps, of so many in all."""
    files = {path for task in tasks for path in task.clean}
    in_shards = {task.shards for task in tasks if task.shards is not None}
    known = {
        "degradations": ", ".join(task.degradation for task in tasks),
        "images": f"{len(files) + sum(shards.count for shards in in_shards):,}",
        "steps": f"{steps:,} of {training.batch_in_words()}",
        "learning rate": training.rate_in_words(),
        "seed": str(training.seed),
    }
    if origin is not None:
        known[ORIGIN] = origin
    if steps < total:
        known[UNFINISHED] = f"after {steps:,} of {total:,} steps"
    return known


def _start(network: NetworkSettings, start: StartSettings, seed: int, said: Said, output: Path, resume: bool) -> Start:
    """The network that is trained, of which only a checkpoint's weights are taken where a run is resumed.

    Raises:
        OptionError: a run was begun with another network, or the settings do not fit what it is to start from.
    """
    if not resume:
        if start.start_from is None:
            return fresh(network, seed)
        said_of_network = said[table_name(NetworkSettings)]
        path = Path(start.start_from)  # a run, or what lies in its folder: best/, a checkpoint
        config = next(
            (folder / CONFIG for folder in (path, *path.parents[:2]) if (folder / CHECKPOINTS).is_dir()), path
        )
        made_with = _said_of(config, NetworkSettings)
        return started_from(start.start_from, network, seed=seed, said=said_of_network, made_with=made_with)
    for settings in (network, start):
        for name, then in _said_of(output / CONFIG, type(settings)).items():
            if (now := getattr(settings, name)) != then:
                raise OptionError(
                    f"`{name}` is {now!r}, but the run in {output} was begun with {then!r}, and goes on from its own "
                    f"checkpoint. Leave `{name}` out, or start another run in another `output`, without `resume`."
                )
    return begun_again(network, output, seed) if start.start_from is None else resumed(output, network)


def _said_of(config: Path, cls: type) -> dict[str, Any]:
    """The settings of a class in the configuration of a run; none where there is no such file.

    What a table does not have is at its default.
    """
    if config.name != CONFIG or not config.is_file():
        return {}
    made: Any = make_settings(cls, read_tables(config).get(table_name(cls), {}), {}, config)
    return {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}


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


def _introduce(model: nn.Module, tasks: Sequence[Task], tests: Sequence[Task], origin: str | None) -> None:
    parameters = count(model)
    if origin is not None:
        say(("from", "bold"), f"     {origin}")
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
    inputs: InputScores = field(default_factory=dict)
    """What the degraded images score themselves: the same at each validation."""

    def validate(self, model: nn.Module) -> dict[str, dict[str, float]]:
        """The scores of the tasks. All processes call it, and share the images."""
        try:
            results = evaluate(model, self.tests, multiple=self.multiple, inputs=self.inputs, processes=together())
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
