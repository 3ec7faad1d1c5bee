"""Training and evaluating what an ablation compares: settings × seeds, one model after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import nn

from hairify._support.counting import count
from hairify._support.files import write_text
from hairify.ablation._settings import AblationSettings
from hairify.ablation.combinations import rows_of
from hairify.ablation.tables import AblationTable, Row, Run, plain_run, run_from
from hairify.ablation.variants import make_variant
from hairify.errors import HairError, OptionError, TrainingError
from hairify.evaluation._scores import Score
from hairify.planning._planner import plan as make_plan
from hairify.planning._plans import Plan

__all__ = ["FILE", "AblationSettings", "TrainAndEvaluate", "ablate"]

# The model, the seed, the row's name and, of rows of `combinations` alone, the degradations that it is to learn.
TrainAndEvaluate: TypeAlias = Callable[..., Mapping[str, Score]]

FILE = "runs.json"
_VERSION = 1
_OF_COMBINATIONS = ("static", "both")


def ablate(
    build: Callable[[int], nn.Module],
    settings: AblationSettings,
    run: TrainAndEvaluate,
    *,
    folder: Path,
    plan_options: Mapping[str, Any] = MappingProxyType({}),
    sweep_options: Mapping[str, Any] | None = None,
    degradations: Sequence[str] = (),
    about: Mapping[str, Any] = MappingProxyType({}),
    on_start: Callable[[], None] | None = None,
    on_run: Callable[[Run, int, int], None] | None = None,
) -> AblationTable:
    """Compares variants and positions of the split, from equal initial weights for each seed.

    All conversions are planned on the network of seed 0 before the first run. A finished run is kept in
    `folder`/runs.json, so that an ablation goes on where it ended, also with more variants, positions or seeds.

    Args:
        build: seed → the network to start from, with fresh or trained weights; not a HairModel.
        settings: what is compared.
        run: trains and evaluates one model, given the seed and the row's name (fit for a file name), and returns
            the scores by task. For one seed it must use the same number of steps and the same data in the same order.
        folder: is made if missing.
        plan_options: keyword arguments of `hairify.plan`.
        sweep_options: those for positions of the split; None for `plan_options`. Their `split_at` is replaced.
        degradations: that the data have, in the order of tables; `settings.combinations` are of these. The models of a
            combination are to learn, and be tested on, its own alone: `run` gets them as a fourth argument.
        about: what the runs depend on besides (data, training, the network's options), as far as JSON can hold it.
        on_start: is called once all is checked, before the first run.
        on_run: is told each run that has ended, how many have, and how many there are.

    Returns:
        The table.

    Raises:
        OptionError: a position of the split is none.
        TrainingError: `folder` holds runs of another configuration, or `run` returned scores of other tasks.
        HairError: the network cannot be converted.
    """
    network = build(0)
    variants, positions, plans = _rows(network, settings, plan_options, sweep_options)
    combinations: tuple[Row, ...] = ()
    if settings.combinations:
        common = next((plans[row.name] for row in variants), None) or make_plan(network, **plan_options)
        combinations = rows_of(settings.combinations, degradations, _OF_COMBINATIONS, common.split)
        plans |= dict.fromkeys((row.name for row in combinations), common)
    rows = {row.name: row for row in (*variants, *positions, *combinations)}
    kept = _Kept.open(folder, about, plans)
    if on_start is not None:
        on_start()
    total = settings.seeds * len(rows)
    for seed in range(settings.seeds):  # the outer loop: what an interruption leaves is complete for some seeds
        missing = [row for name, row in rows.items() if (name, seed) not in kept.runs]
        if missing and seed:
            network = build(seed)
        for row in missing:
            ended = _one_run(network, row, plans[row.name], plan_options.get("example_inputs"), seed, run)
            kept.add(ended, [row.name for row in rows.values() if row.together == rows[ended.row].together])
            if on_run is not None:
                on_run(ended, sum(one.seed < settings.seeds and one.row in rows for one in kept.runs.values()), total)
    runs = tuple(kept.runs[name, seed] for name in rows for seed in range(settings.seeds))
    return AblationTable(variants, positions, runs, combinations)


def _one_run(network: nn.Module, row: Row, plan: Plan, example_inputs: Any, seed: int, run: TrainAndEvaluate) -> Run:
    generator = torch.Generator().manual_seed(seed)
    model = make_variant(row.variant, network, plan, example_inputs=example_inputs, generator=generator)
    parameters = count(model)  # before training, which may wrap or shard it
    more = (row.together,) if row.together else ()
    return Run(row.name, seed, parameters, dict(run(model, seed, row.name, *more)))


def _rows(
    network: nn.Module,
    settings: AblationSettings,
    plan_options: Mapping[str, Any],
    sweep_options: Mapping[str, Any] | None,
) -> tuple[tuple[Row, ...], tuple[Row, ...], dict[str, Plan]]:
    """The rows of both tables, and the plan of each row by name."""
    plans: dict[str, Plan] = {}
    variants: tuple[Row, ...] = ()
    if settings.variants:
        common = make_plan(network, **plan_options)
        plans = dict.fromkeys(settings.variants, common)
        variants = tuple(Row(name, name, common.split) for name in settings.variants)
    positions: dict[str, Row] = {}
    options = plan_options if sweep_options is None else sweep_options
    for asked, split_at in settings.positions(network):
        try:
            plan = make_plan(network, **{**options, "split_at": split_at})
        except HairError as error:
            raise OptionError(f"The position {asked!r} of the split cannot be compared: {error}") from error
        name = "both" if plans.get("both") == plan else f"both@{plan.split}"
        plans[name] = plan
        before = positions[name].asked if name in positions else ()
        positions[name] = Row(name, "both", plan.split, (*before, asked))
    return variants, tuple(positions.values()), plans


@dataclass
class _Kept:
    """The runs that have ended, in memory and in a file.

    Attributes:
        path: the file.
        about: what they depend on.
        plans: of each row.
        runs: {(row, seed): run}.
    """

    path: Path
    about: Mapping[str, Any]
    plans: dict[str, Any]
    runs: dict[tuple[str, int], Run]

    @classmethod
    def open(cls, folder: Path, about: Mapping[str, Any], plans: Mapping[str, Plan]) -> _Kept:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        about = json.loads(json.dumps(dict(about), default=str))
        planned = {name: json.loads(plan.to_json()) for name, plan in plans.items()}
        if not path.exists():
            return cls(path, about, planned, {})
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["version"] != _VERSION:
                raise ValueError(f"version {data['version']} is not {_VERSION}")
            before, planned_before = dict(data["about"]), dict(data["plans"])
            runs = [run_from(one) for one in data["runs"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(
                f"{path} cannot be read as the runs of an ablation ({type(error).__name__}: {error}). Move it away, or "
                "give another folder."
            ) from error
        _check_same(path, before, about)
        for name in planned.keys() & planned_before.keys():
            _check_same(path, planned_before[name], planned[name], f"the plan of {name!r}: ")
        return cls(path, about, planned_before | planned, {(one.row, one.seed): one for one in runs})

    def add(self, run: Run, alike: Collection[str]) -> None:
        """Keep a run.

        Args:
            run: that has ended.
            alike: rows whose models are tested on the same tasks.
        """
        other = next((one for one in self.runs.values() if one.row in alike), run)
        if not run.scores or list(run.scores) != list(other.scores):
            own, before = (", ".join(scores) or "nothing" for scores in (run.scores, other.scores))
            raise TrainingError(
                f"The run of {run.row!r} with seed {run.seed} has scores of {own}, those before of {before}. All "
                "models must be evaluated on the same tasks."
            )
        self.runs[run.row, run.seed] = run
        runs = [plain_run(one) for one in self.runs.values()]
        data = {"version": _VERSION, "about": self.about, "plans": self.plans, "runs": runs}
        write_text(self.path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def _check_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any], what: str = "") -> None:
    for key in dict.fromkeys((*before, *now)):
        if before.get(key) != now.get(key):
            raise TrainingError(
                f"{path} holds runs of another configuration: {what}`{key}` was {_short(before.get(key))} and is now "
                f"{_short(now.get(key))}. Give another folder, or the former configuration."
            )


def _short(value: Any, most: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
