"""Making the plan: nothing is changed here, everything is decided."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from hairify.boxes import HyperSelectingNet
from hairify.dac import DACSource, DegradationAwareClassifier, make_dac, measure_dac
from hairify.errors import (
    AlreadyConvertedError,
    BoxSizeError,
    DACError,
    ExampleInputError,
    NothingToConvertError,
    OptionError,
    SplitError,
)
from hairify.families import Family, Siblings
from hairify.features import Feature, tensors
from hairify.layers import HyperLayer, is_layer, why_not
from hairify.model import HairModel
from hairify.plan import Level, Plan, all_names, full_name, tied_layers
from hairify.probing import Probe, Recording, both_images, same_up_to_rounding, second_image
from hairify.randomness import ONE_AT_A_TIME, seeded
from hairify.rehearsal import unfaithful
from hairify.splitting import choose_split
from hairify.tracing import TracerName, dependents

Targets: TypeAlias = Literal["auto", "families", "layers"]
Init: TypeAlias = Literal["preserve", "random"]
BoxSize: TypeAlias = int | Mapping[str, int] | None

# Families that hold less than this part of what can be converted are strays; then all layers are converted.
_LEAST_FAMILY_SHARE = 0.5
_NEVER_CONVERTED = (nn.modules.conv._ConvNd, nn.Bilinear, nn.Embedding, nn.RNNBase)


def plan(
    model: nn.Module,
    *,
    split_at: str | float | None = None,
    example_inputs: Any = None,
    box_size: BoxSize = None,
    targets: Targets = "auto",
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    dac: DACSource = None,
    giv_dim: int = 64,
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
    _check_options(model, targets, init, giv_dim, include, exclude)
    with ONE_AT_A_TIME:
        probe = Probe(model, example_inputs)
        split, feature = choose_split(probe, split_at)
        verdicts, tracer = _judge_layers(probe, split, feature, include, exclude)
        eligible = [name for name, reason in verdicts.items() if reason is None]
        levels = _levels(probe, eligible, targets, box_size, init) if eligible else ()
        converted = {name for level in levels for layer in level.layers for name in level.layer_names(layer)}
        skipped = {n: reason or "not part of a repeated block" for n, reason in verdicts.items() if n not in converted}
        if not levels:
            raise NothingToConvertError(_nothing(split, skipped))
        made, giv_dim = _make_dac(dac, feature, giv_dim)
        return Plan(
            split=split,
            feature=feature,
            tracer=tracer,
            levels=levels,
            skipped=skipped,
            parameters=_count(model, levels, made, giv_dim),
            share=_share(probe, split, converted),
            giv_dim=giv_dim,
            dac=type(made).__name__,
            dac_width=made.width if type(made) is DegradationAwareClassifier else None,
            init=init,
            inputs=probe.inputs.describe(),
            dac_source=dac,
        )


def _check_options(
    model: nn.Module, targets: str, init: str, giv_dim: int, include: Sequence[str], exclude: Sequence[str]
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
    for name, value, accepted in (("targets", targets, get_args(Targets)), ("init", init, get_args(Init))):
        if value not in accepted:
            raise OptionError(f"`{name}` is {value!r}; accepted are {', '.join(map(repr, accepted))}.")
    if not isinstance(giv_dim, int) or isinstance(giv_dim, bool) or giv_dim < 1:
        raise OptionError(f"`giv_dim` is {giv_dim!r}; accepted is an integer from 1 up.")
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for option, patterns in (("include", include), ("exclude", exclude)):
        if not isinstance(patterns, (list, tuple)) or not all(isinstance(pattern, str) for pattern in patterns):
            raise OptionError(f"`{option}` is {patterns!r}; accepted is a sequence of globs, such as ('decoder.*',).")
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
                hint = f" The nearest names are {', '.join(map(repr, near))}." if near else ""
                raise OptionError(f"`{option}` holds {pattern!r}, which matches no module of the model.{hint}")


def _make_dac(source: DACSource, feature: Feature, giv_dim: int) -> tuple[nn.Module, int]:
    """A DAC to measure, and its D; the one that is trained is made anew by `hairify`."""
    with seeded(torch.Generator()):
        dac = make_dac(source, feature.shape, giv_dim)
        measured = measure_dac(dac, feature.shape)
    if not isinstance(source, nn.Module) and measured != giv_dim:
        raise DACError(f"The DAC factory was asked for giv_dim={giv_dim}, but its product returns {measured} numbers.")
    return dac, measured


def _judge_layers(
    probe: Probe, split: str, feature: Feature, include: Sequence[str], exclude: Sequence[str]
) -> tuple[dict[str, str | None], TracerName]:
    """For every layer, in the order of first calls: None where it may be converted, else the reason against it."""
    model = probe.model
    alone, other, both = _runs_of_two_images(probe, split)
    if not _image_major(*(_feature_of(r, split, feature) for r in (both, alone, other))):
        raise SplitError(
            f"The split {split!r} does not keep the images of a batch apart, so its output cannot give one GIV per "
            "image. Choose another `split_at`, before windows or patches are folded into the batch."
        )
    first = alone.first_calls()
    end_of_split = first[split].end
    reachable, tracer = dependents(probe, split)
    tied, names = tied_layers(model), all_names(model)
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
        elif not _matches(names[name], include) or _matches(names[name], exclude):
            verdicts[name] = "ruled out by `include` or `exclude`"
        elif name in tied:
            verdicts[name] = f"its weight is tied to that of {tied[name]!r}"
        elif name in alone.read_outside:
            verdicts[name] = "its weight is read from outside its own call"
        elif name not in first:
            verdicts[name] = "never called on the example inputs"
        elif first[name].start < end_of_split:
            verdicts[name] = "runs before the split"
        elif name not in reachable:
            verdicts[name] = "does not depend on the split's output"
        elif not _calls_image_major(both.received[name], alone.received[name], other.received[name]):
            verdicts[name] = "what it receives is not ordered by image"
        else:
            verdicts[name] = None
    for name in unfaithful(probe, [name for name, reason in verdicts.items() if reason is None]):
        verdicts[name] = "without a weight of its own the model does not compute the same"
    return verdicts, tracer


def _runs_of_two_images(probe: Probe, split: str) -> tuple[Recording, Recording, Recording]:
    """Image a alone, image b alone, and [a, b]."""
    a, b = probe.inputs, second_image(probe.inputs)
    try:
        probe.recording = probe.run(split=split)  # in place of the first recording, whose tensors can go
        return probe.recording, probe.run(b, split=split), probe.run(both_images(a, b), split=split)
    except Exception as error:
        raise ExampleInputError(
            f"The model runs on one image of {a.describe()}, but not on a second one or on a batch of two: "
            f"{type(error).__name__}: {error}. Per-image weights need a model that takes batches."
        ) from error


def _feature_of(recording: Recording, split: str, feature: Feature) -> Tensor:
    return tensors(recording.watched[split])[feature.index]


def _calls_image_major(both: list[Tensor], a: list[Tensor], b: list[Tensor]) -> bool:
    return len(both) == len(a) == len(b) and all(map(_image_major, both, a, b))


def _image_major(both: Tensor, a: Tensor, b: Tensor) -> bool:
    """Whether the rows of `both` are those of image a, then those of image b, up to rounding."""
    return a.ndim > 0 and a.shape == b.shape and same_up_to_rounding(both, torch.cat([a, b]))


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a glob matches the module, under any of its names, or one that holds it."""
    parts = [name.split(".") for name in names]
    around = [".".join(p[:i]) for p in parts for i in range(1, len(p) + 1)]
    return any(fnmatch.fnmatchcase(name, pattern) for name in around for pattern in patterns)


def _levels(probe: Probe, eligible: list[str], targets: Targets, box_size: BoxSize, init: Init) -> tuple[Level, ...]:
    sizes = {name: sum(p.numel() for p in probe.model.get_submodule(name).parameters()) for name in eligible}
    families = Siblings(probe.model, eligible, probe.recording.first_calls()).families() if targets != "layers" else []
    taken = {full_name(block, layer) for f in families for block in f.blocks for layer in f.layers}
    held = sum(sizes[name] for name in taken)
    if targets == "layers" or (targets == "auto" and held < _LEAST_FAMILY_SHARE * sum(sizes.values())):
        families += [Family(name, (name,), ("",)) for name in eligible if name not in taken]
    order = {name: i for i, name in enumerate(eligible)}
    families.sort(key=lambda f: order[full_name(f.blocks[0], f.layers[0])])
    names: list[str] = []
    for family in families:
        first = family.blocks[0]
        candidates = itertools.chain((family.parent, first), (f"{first}+{i}" for i in itertools.count(2)))
        names.append(next(name for name in candidates if name and name not in names))
    chosen = _box_sizes(names, [len(f.blocks) for f in families], box_size, init)
    return tuple(
        Level(name, f.blocks, f.layers, n, sum(sizes[full_name(f.blocks[0], layer)] for layer in f.layers))
        for name, f, n in zip(names, families, chosen, strict=True)
    )


def _box_sizes(names: list[str], blocks: list[int], box_size: BoxSize, init: Init) -> list[int]:
    """N of each level."""
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
        next((n for pattern, n in wanted.items() if fnmatch.fnmatchcase(name, pattern)), m + 1)
        for name, m in zip(names, blocks, strict=True)
    ]
    for name, m, n in zip(names, blocks, sizes, strict=True):
        if init == "preserve" and n < m:
            raise BoxSizeError(
                f"`box_size` is {n} for level {name!r}, whose {m} blocks have {m} weight sets to preserve. Give "
                f"at least {m} (the default is {m + 1}), or `init='random'` to start from fresh weights."
            )
    return sizes


def _count(model: nn.Module, levels: tuple[Level, ...], dac: nn.Module, giv_dim: int) -> tuple[int, int]:
    """The number of parameters before and after."""
    before = sum(p.numel() for p in model.parameters())
    added = sum(p.numel() for p in dac.parameters())
    for level in levels:
        with torch.device("meta"):
            hsn = HyperSelectingNet(giv_dim, len(level.blocks), level.box_size)
        added += sum(p.numel() for p in hsn.parameters()) + (level.box_size - len(level.blocks)) * level.row_size
    return before, before + added


def _share(probe: Probe, split: str, converted: set[str]) -> float:
    first = probe.recording.first_calls()
    after: dict[str, int] = {
        name: sum(p.numel() for p in module.parameters(recurse=False))
        for name, module in probe.model.named_modules()
        if name in first and first[name].end > first[split].end
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
