"""The plan of a conversion, as data."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from torch import nn

from hairify._support.copying import copy_model
from hairify._support.module_names import full_name, tied_layers
from hairify.errors import CheckpointError, PlanMismatchError
from hairify.nn._dac import DACName, DACSource, make_dac
from hairify.nn._features import Feature, Grid, Layout
from hairify.nn._hsn import published_widths
from hairify.nn._layers import is_layer, settings, why_not
from hairify.nn._moments_dac import MomentsDAC
from hairify.nn._published_dac import DegradationAwareClassifier
from hairify.planning._printing import by_reason, millions, some, table

PLAN_VERSION = 5
"""1 had no low-rank boxes; 2 no DAC but the published one, and no HSNs of other widths; 3 no limit of their logits; 4
nothing of what could not be checked, and of the grid of tokens."""
_LEAST_SHARE = 0.5

_LEVEL_KEYS = {"row_parameters": "row_size", "box_parameters": "size"}
"""Fields of `Level` that have another name in JSON, where it is that of version 1."""


@dataclass(frozen=True)
class Level:
    """M structurally identical blocks that share one Weight Box.

    Attributes:
        name: the module that holds the blocks, or the block itself.
        blocks: names of the M blocks.
        layers: names, within a block, of the layers that become hyper layers; `("",)` where blocks are layers.
        box_size: N, the number of rows in the Weight Box: complete parameter sets for a block's layers.
        row_parameters: P, the number of parameters in one row, which is that of one block's layers.
        box_parameters: the number of parameters in the Weight Box, N·P unless it is of low rank.
        rank: of the matrices by which rows differ in a low-rank box; None for a full box, whose rows are whole.
        shared: whether all blocks share these matrices, as in low-rank boxes of hairify 0.1.
    """

    name: str
    blocks: tuple[str, ...]
    layers: tuple[str, ...]
    box_size: int
    row_parameters: int
    box_parameters: int
    rank: int | None = None
    shared: bool = False

    def layer_names(self, layer: str) -> list[str]:
        """Full names of one layer in all blocks."""
        return [full_name(block, layer) for block in self.blocks]


@dataclass(frozen=True)
class Plan:
    """What `hairify` does to a model. `print` it to read it.

    Attributes:
        split: name of the module whose output F_g feeds the DAC.
        feature: how F_g is read from that output.
        tracer: "fx" where the symbolic graph told which layers depend on F_g, "observed" where a run did.
        levels: what is converted.
        skipped: {layer: reason} for every layer that is left alone.
        parameters: number of the model's parameters before and after.
        share: of the parameters in modules that first run after the split, the part that is converted.
        giv_dim: D.
        dac: name of the DAC's class.
        dac_name: which of hairify's own it is; None for a foreign one, which `load` must be given.
        dac_width: width of the published one.
        hsn_widths: of the hidden layers of each HSN.
        hsn_limit: under which HSNs hold the root mean square of their logits over the rows; None: as they are.
        init: "preserve" or "random".
        inputs: shapes of the example inputs.
        unchecked: checks that could not be made, and why, in words.
        dac_source: the DAC or factory given to `plan`; not saved.
    """

    split: str
    feature: Feature
    tracer: TracerName
    levels: tuple[Level, ...]
    skipped: dict[str, str]
    parameters: tuple[int, int]
    share: float
    giv_dim: int
    dac: str
    dac_name: DACName | None
    dac_width: int | None
    hsn_widths: tuple[int, ...]
    hsn_limit: float | None
    init: str
    inputs: str
    unchecked: tuple[str, ...] = ()
    dac_source: DACSource = field(default=None, compare=False, repr=False)

    @property
    def warning(self) -> str | None:
        """What a reader should know before training, or None."""
        if self.share >= _LEAST_SHARE:
            return None
        return (
            f"Only {self.share:.0%} of the parameters after the split {self.split!r} become hyper layers. "
            "`skipped` says why the others do not; an earlier `split_at`, or `targets='layers'`, may convert more."
        )

    def make_dac(self) -> nn.Module:
        """A fresh built-in DAC, a copy of the module in `dac_source`, or what the factory there makes."""
        source = self.dac_name if self.dac_source is None else self.dac_source
        if source is None:
            raise PlanMismatchError(f"The plan was made with a DAC of your own ({self.dac}); give it again: `dac=...`.")
        if self.dac_source is None and self.dac_width is not None:
            return DegradationAwareClassifier(self.feature.channels, self.giv_dim, self.dac_width)
        dac = make_dac(source, self.feature.shape, self.giv_dim, single=self.feature.is_single)
        return copy_model(dac) if dac is self.dac_source else dac

    def with_dac(self, dac: DACSource) -> Plan:
        """The same plan with a DAC, or a factory of one, in place of the recorded one."""
        return dataclasses.replace(self, dac_source=dac)

    def check(self, model: nn.Module) -> None:
        """Make sure that the plan can be applied to `model`.

        Raises:
            PlanMismatchError: a module is missing, or layers that share a Weight Box are not alike.
        """
        modules, tied = dict(model.named_modules()), tied_layers(model)
        if self.split not in modules:
            raise PlanMismatchError(
                f"The plan splits at {self.split!r}, but the model ({type(model).__name__}) has no such module."
            )
        grid = self.feature.grid
        if grid is not None and grid.module is not None and grid.module not in modules:
            raise PlanMismatchError(
                f"The plan reads the grid of tokens from {grid.module!r}, but the model ({type(model).__name__}) has "
                "no such module."
            )
        for level in self.levels:
            size = 0
            for layer in level.layers:
                names = level.layer_names(layer)
                found = [self._layer(modules, name, level) for name in names]
                if name := next((name for name in names if name in tied), None):
                    raise PlanMismatchError(
                        f"The plan converts {name!r}, whose weight is tied to that of {tied[name]}."
                    )
                if len({settings(module) for module in found}) > 1:
                    raise PlanMismatchError(f"Layer {layer!r} is not alike in all blocks of level {level.name!r}.")
                size += sum(p.numel() for p in found[0].parameters())
            if size != level.row_parameters:
                raise PlanMismatchError(
                    f"A block of level {level.name!r} has {size} parameters in its layers, but the plan says "
                    f"{level.row_parameters}: it was made for a model of another size."
                )

    @staticmethod
    def _layer(modules: dict[str, nn.Module], name: str, level: Level) -> nn.Module:
        module = modules.get(name)
        if module is None or not is_layer(module):
            kind = "is missing from the model" if module is None else f"is a {type(module).__name__}"
            raise PlanMismatchError(f"The plan converts {name!r} (level {level.name!r}), which {kind}.")
        if (reason := why_not(module)) is not None:
            raise PlanMismatchError(f"The plan converts {name!r} (level {level.name!r}), which cannot be: {reason}.")
        return module

    def to_json(self) -> str:
        """The plan as versioned JSON; equal plans give equal text."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "dac_source"}
        data = {name: _plain(value) for name, value in fields.items()}
        data["levels"] = [{_LEVEL_KEYS.get(name, name): v for name, v in level.items()} for level in data["levels"]]
        return json.dumps({"version": PLAN_VERSION, **data}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            CheckpointError: the text is damaged, or was written by a newer hairify.
        """
        try:
            data = json.loads(text)
            version = data.pop("version")
            if version > PLAN_VERSION:
                raise CheckpointError(
                    f"The plan has version {version}; this hairify reads up to {PLAN_VERSION}. Install a newer hairify."
                )
            feature, levels, (before, after) = data.pop("feature"), data.pop("levels"), data.pop("parameters")
            feature["shape"] = tuple(feature["shape"])
            feature["grid"] = None if feature.get("grid") is None else Grid(**feature["grid"])
            if version < 3:
                data["dac_name"] = None if data["dac_width"] is None else "published"
                data["hsn_widths"] = published_widths(data["giv_dim"])
            if version < 4:
                data["hsn_limit"] = None
            data["hsn_widths"], data["unchecked"] = tuple(data["hsn_widths"]), tuple(data.get("unchecked", ()))
            plan = cls(
                feature=Feature(**feature),
                levels=tuple(_read_level(level, version) for level in levels),
                parameters=(before, after),
                **data,
            )
            if problem := plan._problem():
                raise CheckpointError(f"The plan cannot be carried out: {problem}; the text is damaged.")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"The plan cannot be read ({type(error).__name__}: {error}); the text is damaged."
            ) from error
        return plan

    def _problem(self) -> str | None:
        """What is wrong with the numbers and words of a plan that was read, or None."""
        sizes = [
            self.giv_dim,
            *self.feature.shape,
            *self.hsn_widths,
            *(n for v in self.levels for n in (v.box_size, v.row_parameters, v.box_parameters, v.rank or 1)),
        ]
        if not all(isinstance(n, int) and n >= 1 for n in (*sizes, 1 if self.dac_width is None else self.dac_width)):
            return "a size is no number from 1 up"
        number = isinstance(self.hsn_limit, (int, float)) and not isinstance(self.hsn_limit, bool)
        if self.hsn_limit is not None and not (number and 0 < self.hsn_limit < math.inf):
            return "the limit of logits is no number above 0"
        if not self.levels or not all(v.blocks and v.layers for v in self.levels):
            return "a level holds no layer"
        if self.dac_name not in (None, *get_args(DACName)):
            return f"the DAC {self.dac_name!r} is not among {', '.join(get_args(DACName))}"
        if self.feature.layout not in get_args(Layout):
            return f"the layout {self.feature.layout!r} is not among {', '.join(get_args(Layout))}"
        if self.feature.grid is not None and not self.feature.grid.is_sound():
            return "the grid of tokens cannot be found so"
        return None

    def __str__(self) -> str:
        before, after = self.parameters
        c, h, w = self.feature.shape
        layout = f"{self.feature.layout}{_grid(self.feature)}"
        lines = [
            f"split    {self.split} -> F_g {c}×{h}×{w} ({layout}) on inputs {self.inputs}",
            f"GIV      {self.giv_dim} numbers from {self.dac}",
            f"tracer   {self.tracer}",
            f"share    {self.share:.0%} of the parameters after the split are converted",
            f"size     {millions(before)} -> {millions(after)} parameters",
            "",
            *table(_HEADS, [_row(level) for level in self.levels]),
        ]
        if self.skipped:
            lines += ["", f"left as they are: {len(self.skipped)} layers"]
            lines += [
                f"  {len(names):4d}  {reason}: {some(names)}" for reason, names in by_reason(self.skipped).items()
            ]
        lines += [f"not checked: {what}" for what in self.unchecked]
        if self.warning:
            lines += ["", f"warning: {self.warning}"]
        return "\n".join(lines)


def _grid(feature: Feature) -> str:
    """What tells the grid of tokens, for `print`."""
    grid = feature.grid
    if grid is None:
        return "" if feature.layout != "tokens" else ", by the aspect ratio of the image"
    return f", by the size of {'the image' if grid.module is None else grid.module}"


def carried_out(plan: Plan, dac: nn.Module, parameters: int) -> Plan:
    """The plan as the HairModel has it that was made by it: with the DAC that it got, and its number of parameters."""
    facts = dac_facts(dac, plan.feature)
    return dataclasses.replace(plan, **facts, parameters=(plan.parameters[0], parameters), dac_source=None)


def dac_facts(dac: nn.Module, feature: Feature) -> dict[str, Any]:
    """What a plan says of a DAC: its class, and where it is one of hairify's own, what it takes to make it again."""
    name: DACName | None = None
    if type(dac) is MomentsDAC and dac.single == feature.is_single:
        name = "moments"
    elif type(dac) is DegradationAwareClassifier:
        name = "published"
    width = dac.width if type(dac) is DegradationAwareClassifier else None
    return {"dac": type(dac).__name__, "dac_name": name, "dac_width": width}


def _read_level(data: dict[str, Any], version: int) -> Level:
    """A level as `Plan.to_json` wrote it."""
    data.setdefault("shared", version < 3 and data.get("rank") is not None)
    data.setdefault("size", data["box_size"] * data["row_size"])
    data |= {name: data.pop(key) for name, key in _LEVEL_KEYS.items()}
    data["blocks"], data["layers"] = tuple(data["blocks"]), tuple(data["layers"])
    return Level(**data)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


TracerName: TypeAlias = Literal["fx", "observed"]

_HEADS = ("level", "blocks M", "box size N", "layers", "P", "rank", "in the box")


def _row(level: Level) -> tuple[str, ...]:
    """A level's line in the table under `_HEADS`."""
    return (
        level.name,
        str(len(level.blocks)),
        str(level.box_size),
        str(len(level.layers)),
        f"{level.row_parameters:,}",
        "full" if level.rank is None else str(level.rank),
        f"{level.box_parameters:,}",
    )
