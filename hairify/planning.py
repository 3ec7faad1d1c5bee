"""Making the plan: nothing is changed here, everything is decided."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import nn

from hairify.boxes import HyperSelectingNet
from hairify.dac import DACSource, make_dac, measure_dac
from hairify.errors import (
    AlreadyConvertedError,
    BoxSizeError,
    DACError,
    NothingToConvertError,
    OptionError,
)
from hairify.families import Family, Siblings
from hairify.features import Feature
from hairify.layers import HyperLayer, is_layer, why_not
from hairify.model import HairModel, within_hair_models
from hairify.pairs import Pairs
from hairify.plan import Level, Plan, all_names, dac_facts, full_name, tied_layers
from hairify.presets import DEFAULT_RANK, PRESETS, BoxKind, Preset, PresetName, Targets, hsn_widths
from hairify.probing import Probe
from hairify.randomness import ONE_AT_A_TIME, seeded
from hairify.recording import Recording
from hairify.rehearsal import unfaithful
from hairify.splitting import possible_splits
from hairify.tracing import TracerName, dependents, without_effect
from hairify.warmstart import low_rank

Init: TypeAlias = Literal["preserve", "random"]
BoxSize: TypeAlias = int | Mapping[str, int] | None

_MOST_SPLITS_TRIED = 5

# Families that hold less than this part of what can be converted are strays; then all layers are converted.
_LEAST_FAMILY_SHARE = 0.5
_NEVER_CONVERTED = (nn.modules.conv._ConvNd, nn.Bilinear, nn.Embedding, nn.RNNBase)


def plan(
    model: nn.Module,
    *,
    preset: PresetName = "default",
    split_at: str | float | None = None,
    example_inputs: Any = None,
    box_size: BoxSize = None,
    box: BoxKind | None = None,
    rank: int | None = None,
    targets: Targets | None = None,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    dac: DACSource = None,
    giv_dim: int | None = None,
    init: Init = "preserve",
    generator: torch.Generator | None = None,
) -> Plan:
    """A dry run of `hairify`, with the same arguments: what would be converted, what not, and why.

    `generator` is accepted so that one set of arguments serves both; planning draws nothing from it.

    Returns:
        A `Plan`; print it to read it, and hand it to `hairify(model, plan=...)` to carry it out.

    Raises:
        HairError: see `hairify`.
    """
    model = network_of(model)
    _check_options(model, preset, targets, init, box, rank, giv_dim, include, exclude)
    usual = PRESETS[preset]
    box, targets = box or usual.box, targets or usual.targets
    if rank is not None and box != "low_rank":
        raise OptionError(f"`rank` is {rank}, but the boxes are full; give `box='low_rank'` too, or leave `rank` out.")
    rank = (rank or DEFAULT_RANK) if box == "low_rank" else None
    dac = usual.dac if dac is None else dac
    with ONE_AT_A_TIME:
        probe = Probe(model, example_inputs)
        pairs = Pairs(probe)
        tried: list[_Attempt] = []
        for split, feature in itertools.islice(possible_splits(probe, pairs, split_at), _MOST_SPLITS_TRIED):
            verdicts, tracer = _judge_layers(probe, pairs, split, include, exclude)
            eligible = [name for name, reason in verdicts.items() if reason is None]
            levels = _levels(probe, eligible, targets, box_size, rank, init, usual) if eligible else ()
            tried.append(_Attempt(split, feature, tracer, levels, _skipped(verdicts, levels)))
            if levels:
                break
        chosen = tried[-1]
        if not chosen.levels:
            raise NothingToConvertError(_nothing(tried[0].split, tried[0].skipped))
        size = sum(p.numel() for p in model.parameters())
        if isinstance(dac, nn.Module):
            giv_dim = measure_dac(dac, chosen.feature.shape)
        blocks, box_sizes = [len(v.blocks) for v in chosen.levels], [v.box_size for v in chosen.levels]
        channels = chosen.feature.channels if dac == "moments" else None
        giv_dim, widths = hsn_widths(preset, giv_dim, channels, blocks, box_sizes, size)
        made = _make_dac(dac, chosen.feature, giv_dim)
        return Plan(
            **chosen._asdict(),
            parameters=(size, size + _added(chosen.levels, made, giv_dim, widths)),
            share=_share(probe, chosen.split, _layers_of(chosen.levels)),
            giv_dim=giv_dim,
            **dac_facts(made, chosen.feature),
            hsn_widths=widths,
            hsn_limit=usual.hsn_limit,
            init=init,
            inputs=probe.inputs.describe(),
            dac_source=None if isinstance(dac, str) else dac,
        )


class _Attempt(NamedTuple):
    """What a plan says of one split."""

    split: str
    feature: Feature
    tracer: TracerName
    levels: tuple[Level, ...]
    skipped: dict[str, str]


def network_of(model: Any) -> nn.Module:
    """The network itself, where a loader's description of one is given, such as spandrel's `ModelDescriptor`."""
    inner = getattr(model, "model", None)
    return inner if not isinstance(model, nn.Module) and isinstance(inner, nn.Module) else model


def _check_options(
    model: nn.Module,
    preset: str,
    targets: str | None,
    init: str,
    box: str | None,
    rank: int | None,
    giv_dim: int | None,
    include: Sequence[str],
    exclude: Sequence[str],
) -> None:
    if not isinstance(model, nn.Module):
        raise OptionError(f"`model` is a {type(model).__name__}; hairify converts an nn.Module.")
    own = {m._scope for m in model.modules() if isinstance(m, HairModel)}
    if isinstance(model, HairModel) or any(
        isinstance(m, HyperLayer) and m.hair_slot.scope not in own for m in model.modules()
    ):
        raise AlreadyConvertedError(
            "The model is a HairModel already, or part of one. Convert the original model, or change this one with "
            "`hairify(hair.bake(giv=...), ...)`."
        )
    for name, value, accepted in (
        ("preset", preset, get_args(PresetName)),
        ("targets", targets, (None, *get_args(Targets))),
        ("init", init, get_args(Init)),
        ("box", box, (None, *get_args(BoxKind))),
    ):
        if value not in accepted:
            raise OptionError(f"`{name}` is {value!r}; accepted are {', '.join(map(repr, accepted))}.")
    for name, number in (("giv_dim", giv_dim), ("rank", rank)):
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise OptionError(f"`{name}` is {number!r}; accepted is an integer from 1 up.")
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for option, patterns in (("include", include), ("exclude", exclude)):
        if not isinstance(patterns, (list, tuple)) or not all(isinstance(pattern, str) for pattern in patterns):
            raise OptionError(f"`{option}` is {patterns!r}; accepted is a sequence of globs, such as ('decoder.*',).")
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
                hint = f" The nearest names are {', '.join(map(repr, near))}." if near else ""
                raise OptionError(f"`{option}` holds {pattern!r}, which matches no module of the model.{hint}")


def _make_dac(source: DACSource, feature: Feature, giv_dim: int) -> nn.Module:
    """A DAC to measure; the one that is trained is made anew by `hairify`."""
    with seeded(torch.Generator()):
        dac = make_dac(source, feature.shape, giv_dim, single=feature.is_single)
        measured = measure_dac(dac, feature.shape)
    if measured != giv_dim:
        raise DACError(f"The DAC factory was asked for giv_dim={giv_dim}, but its product returns {measured} numbers.")
    return dac


def _judge_layers(
    probe: Probe, pairs: Pairs, split: str, include: Sequence[str], exclude: Sequence[str]
) -> tuple[dict[str, str | None], TracerName]:
    """For every layer, in the order of first calls: None where it may be converted, else the reason against it."""
    model = probe.model
    first = probe.recording.first_calls()
    early = _before(probe.recording, split)
    training = pairs.training
    early_in_training = _before(training, split) if training else set()
    read_outside = probe.recording.read_outside | (training.read_outside if training else set())
    observed = _differentiated(probe, split)
    reachable, tracer = dependents(probe, split, observed)
    idle = without_effect(observed) if observed else set()
    tied, names, inner = tied_layers(model), all_names(model), within_hair_models(model)
    verdicts: dict[str, str | None] = {}
    for name, module in sorted(
        model.named_modules(), key=lambda item: first[item[0]].start if item[0] in first else 2**62
    ):
        if not is_layer(module):
            if isinstance(module, _NEVER_CONVERTED):
                verdicts[name] = f"{type(module).__name__} is not among the classes that are converted"
            continue
        if (reason := why_not(module)) is not None:
            verdicts[name] = reason
        elif name in inner:
            verdicts[name] = "belongs to a HairModel within the model"
        elif not _matches(names[name], include) or _matches(names[name], exclude):
            verdicts[name] = "ruled out by `include` or `exclude`"
        elif name in tied:
            verdicts[name] = f"its weight is tied to that of {tied[name]}"
        elif name in read_outside:
            verdicts[name] = "its weight is read from outside its own call"
        elif name not in first:
            verdicts[name] = "never called on the example inputs"
        elif name in early:
            verdicts[name] = "runs before the split"
        elif name in early_in_training:
            verdicts[name] = "runs before the split in training mode"
        elif name not in reachable:
            verdicts[name] = "does not depend on the split's output"
        elif name in idle:
            verdicts[name] = "the model's output does not depend on it"
        elif not pairs.received_apart(name):
            verdicts[name] = "what it receives is not ordered by image"
        elif not pairs.received_apart_in_training(name):
            verdicts[name] = "what it receives in training mode is not ordered by image"
        else:
            verdicts[name] = None
    for name in unfaithful(probe, pairs, [name for name, reason in verdicts.items() if reason is None]):
        verdicts[name] = "without a weight of its own the model does not compute the same"
    return verdicts, tracer


def _differentiated(probe: Probe, split: str) -> Recording | None:
    """A run cut at the split; None where the model fails when gradients are recorded, as some may."""
    try:
        return probe.run(cut_at=split)
    except Exception:
        return None


def _before(recording: Recording, split: str) -> set[str]:
    """The modules that start before the split's first call has ended."""
    first = recording.first_calls()
    end = first[split].end if split in first else math.inf
    return {name for name, call in first.items() if call.start < end}


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a glob matches the module, under any of its names, or one that holds it."""
    parts = [name.split(".") for name in names]
    around = [".".join(p[:i]) for p in parts for i in range(1, len(p) + 1)]
    return any(fnmatch.fnmatchcase(name, pattern) for name in around for pattern in patterns)


def _layers_of(levels: tuple[Level, ...]) -> set[str]:
    return {name for level in levels for layer in level.layers for name in level.layer_names(layer)}


def _skipped(verdicts: dict[str, str | None], levels: tuple[Level, ...]) -> dict[str, str]:
    converted = _layers_of(levels)
    return {
        name: reason or "not part of a repeated block" for name, reason in verdicts.items() if name not in converted
    }


def _levels(
    probe: Probe,
    eligible: list[str],
    targets: Targets,
    box_size: BoxSize,
    rank: int | None,
    init: Init,
    usual: Preset,
) -> tuple[Level, ...]:
    sizes = {name: sum(p.numel() for p in probe.model.get_submodule(name).parameters()) for name in eligible}
    families = Siblings(probe.model, eligible, probe.recording.first_calls()).families() if targets != "layers" else []
    taken = {full_name(block, layer) for f in families for block in f.blocks for layer in f.layers}
    held = sum(sizes[name] for name in taken)
    strays = targets == "auto" and held < _LEAST_FAMILY_SHARE * sum(sizes.values())
    if targets in ("all", "layers") or strays:
        families += [Family(name, (name,), ("",)) for name in eligible if name not in taken]
    order = {name: i for i, name in enumerate(eligible)}
    families.sort(key=lambda f: order[full_name(f.blocks[0], f.layers[0])])
    names: list[str] = []
    for family in families:
        first = family.blocks[0]
        candidates = itertools.chain((family.parent, first), (f"{first}+{i}" for i in itertools.count(2)))
        names.append(next(name for name in candidates if name and name not in names))
    whole = rank is None and init == "preserve"  # then N ≥ M rows are needed to hold M trained sets
    chosen = _box_sizes(
        names,
        [len(f.blocks) for f in families],
        box_size,
        whole,
        [usual.box_size(len(f.blocks), rank) for f in families],
    )
    levels = []
    for name, family, n in zip(names, families, chosen, strict=True):
        layers = [full_name(family.blocks[0], layer) for layer in family.layers]
        shapes = [p.shape for layer in layers for p in probe.model.get_submodule(layer).parameters(recurse=False)]
        row_size = sum(sizes[layer] for layer in layers)
        size = n * row_size if rank is None else _low_rank_size(shapes, len(family.blocks), n, rank)
        levels.append(Level(name, family.blocks, family.layers, n, row_size, size, rank))
    return tuple(levels)


def _low_rank_size(shapes: list[torch.Size], blocks: int, box_size: int, rank: int) -> int:
    """The number of parameters in a low-rank box for layers with parameters of these shapes."""
    whole = blocks * sum(map(math.prod, shapes))
    factors = sum(
        low_rank(shape, rank) * (shape[0] + math.prod(shape[1:])) if len(shape) > 1 else shape[0] for shape in shapes
    )
    return whole + blocks * box_size * factors


def _box_sizes(
    names: list[str], blocks: list[int], box_size: BoxSize, at_least_blocks: bool, usual: list[int]
) -> list[int]:
    """N of each level; the usual one where none is given."""
    wanted = {"*": box_size} if not isinstance(box_size, Mapping) and box_size is not None else dict(box_size or {})
    for pattern, size in wanted.items():
        if not isinstance(pattern, str):
            raise OptionError(f"`box_size` has the key {pattern!r}; accepted are globs over the names of levels.")
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise OptionError(f"`box_size` is {size!r} for {pattern!r}; accepted is an integer from 1 up.")
        if names and not fnmatch.filter(names, pattern):
            raise OptionError(
                f"`box_size` names {pattern!r}, which matches no level. The levels are {', '.join(map(repr, names))}."
            )
    sizes = [
        next((n for pattern, n in wanted.items() if fnmatch.fnmatchcase(name, pattern)), n)
        for name, n in zip(names, usual, strict=True)
    ]
    for name, m, n in zip(names, blocks, sizes, strict=True):
        if n < 2:
            raise BoxSizeError(
                f"`box_size` is {n} for level {name!r}: with a single row all images get the same weights, and DAC and "
                "HSNs never learn. Give at least 2."
            )
        if at_least_blocks and n < m:
            raise BoxSizeError(
                f"`box_size` is {n} for level {name!r}, whose {m} blocks have {m} weight sets to preserve. Give "
                f"at least {m} (the default is {m + 1}), or `box='low_rank'`, or `init='random'` for fresh weights."
            )
    return sizes


def _added(levels: tuple[Level, ...], dac: nn.Module, giv_dim: int, widths: Sequence[int]) -> int:
    """How many parameters the conversion adds."""
    added = sum(p.numel() for p in dac.parameters())
    for level in levels:
        with torch.device("meta"):
            hsn = HyperSelectingNet(giv_dim, len(level.blocks), level.box_size, widths)
        added += sum(p.numel() for p in hsn.parameters()) + level.size - len(level.blocks) * level.row_size
    return added


def _share(probe: Probe, split: str, converted: set[str]) -> float:
    first = probe.recording.first_calls()
    inner = within_hair_models(probe.model)
    after: dict[str, int] = {
        name: sum(p.numel() for p in module.parameters(recurse=False))
        for name, module in probe.model.named_modules()
        if name in first and first[name].end > first[split].end and name not in inner
    }
    held = sum(after[name] for name in converted)
    return held / max(1, sum(after.values()))


def _nothing(split: str, skipped: dict[str, str]) -> str:
    counts = Counter(skipped.values())
    reasons = (
        "; ".join(f"{count} × {reason}" for reason, count in counts.most_common()) or "the model has no such layers"
    )
    return (
        f"No layer after the split {split!r} can be converted ({reasons}). Conv2d, ConvTranspose2d, Conv1d and Linear "
        "layers that depend on the split's output are. Choose an earlier `split_at`, or wider `include` and `targets`."
    )
