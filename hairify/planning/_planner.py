"""Making the plan: nothing is changed here, everything is decided."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from hairify._support.randomness import ONE_AT_A_TIME, seeded
from hairify.errors import (
    DACError,
    NothingToConvertError,
    OptionError,
)
from hairify.nn._converted import within_converted
from hairify.nn._dac import DACSource, make_dac, measure_dac
from hairify.nn._features import Feature
from hairify.nn._hsn import HyperSelectingNet
from hairify.planning._levels import layers_of, make_levels
from hairify.planning._options import BoxKind, BoxSize, Init, PresetName, Targets, check_options, network_of
from hairify.planning._pairs import Pairs
from hairify.planning._plans import Level, Plan, TracerName, dac_facts
from hairify.planning._presets import DEFAULT_RANK, PRESETS, hsn_widths
from hairify.planning._probe import Probe
from hairify.planning._splits import possible_splits
from hairify.planning._verdicts import judge_layers

_MOST_SPLITS_TRIED = 5


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
    check_options(model, preset, targets, init, box, rank, giv_dim, include, exclude)
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
            verdicts, tracer = judge_layers(probe, pairs, split, include, exclude)
            eligible = [name for name, reason in verdicts.items() if reason is None]
            levels = make_levels(probe, eligible, targets, box_size, rank, init, usual) if eligible else ()
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
            share=_share(probe, chosen.split, layers_of(chosen.levels)),
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


def _make_dac(source: DACSource, feature: Feature, giv_dim: int) -> nn.Module:
    """A DAC to measure; the one that is trained is made anew by `hairify`."""
    with seeded(torch.Generator()):
        dac = make_dac(source, feature.shape, giv_dim, single=feature.is_single)
        measured = measure_dac(dac, feature.shape)
    if measured != giv_dim:
        raise DACError(f"The DAC factory was asked for giv_dim={giv_dim}, but its product returns {measured} numbers.")
    return dac


def _skipped(verdicts: dict[str, str | None], levels: tuple[Level, ...]) -> dict[str, str]:
    converted = layers_of(levels)
    return {
        name: reason or "not part of a repeated block" for name, reason in verdicts.items() if name not in converted
    }


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
    inner = within_converted(probe.model)
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
