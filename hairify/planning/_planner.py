"""Making the plan: nothing is changed here, everything is decided."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from typing_extensions import Unpack

from hairify._support.counting import count
from hairify._support.randomness import ONE_AT_A_TIME, seeded
from hairify.errors import DACError, NothingToConvertError
from hairify.nn._converted import within_converted
from hairify.nn._dac import make_dac, measure_dac
from hairify.nn._features import Feature
from hairify.nn._hsn import HyperSelectingNet
from hairify.planning._dependence import Graphs
from hairify.planning._grids import with_grid
from hairify.planning._levels import layers_of, make_levels
from hairify.planning._options import Choices, Options, check_names, network_of, showing_options
from hairify.planning._pairs import Pairs
from hairify.planning._plans import Level, Plan, TracerName, dac_facts
from hairify.planning._presets import hsn_widths
from hairify.planning._probe import Probe
from hairify.planning._splits import possible_splits
from hairify.planning._verdicts import judge_layers

_MOST_SPLITS_TRIED = 5


@showing_options
def plan(model: nn.Module, **options: Unpack[Options]) -> Plan:
    """A dry run of `hairify`, with the same arguments: what would be converted, what not, and why.

    `generator` is accepted so that one set of arguments serves both; planning draws nothing from it.

    Returns:
        A `Plan`; print it to read it, and hand it to `hairify(model, plan=...)` to carry it out.

    Raises:
        HairError: see `hairify`.
    """
    check_names(options)
    model = network_of(model)
    choices = Choices.of(model, options)
    with ONE_AT_A_TIME:
        probe = Probe(model, choices.example_inputs)
        pairs, graphs = Pairs(probe), Graphs(probe)
        chosen = _first_that_converts(probe, pairs, graphs, choices)
        feature, grid_unchecked = with_grid(probe, chosen.split, chosen.feature)
        chosen = chosen._replace(feature=feature)
        size = count(model)
        dac, giv_dim, widths = _dac_and_widths(choices, chosen, size)
    return Plan(
        **chosen._asdict(),
        parameters=(size, size + _added(chosen.levels, dac, giv_dim, widths)),
        share=_share(probe, chosen.split, layers_of(chosen.levels)),
        giv_dim=giv_dim,
        **dac_facts(dac, chosen.feature),
        hsn_widths=widths,
        hsn_limit=choices.usual.hsn_limit,
        init=choices.init,
        inputs=probe.inputs.describe(),
        unchecked=(*graphs.unchecked, *pairs.unchecked, *grid_unchecked),
        dac_source=None if isinstance(choices.dac, str) else choices.dac,
    )


class _Attempt(NamedTuple):
    """What a plan says of one split."""

    split: str
    feature: Feature
    tracer: TracerName
    levels: tuple[Level, ...]
    skipped: dict[str, str]


def _first_that_converts(probe: Probe, pairs: Pairs, graphs: Graphs, choices: Choices) -> _Attempt:
    """Of the splits in question, the first after which something can be converted.

    Raises:
        NothingToConvertError: there is none.
    """
    first: _Attempt | None = None
    for split, feature in itertools.islice(possible_splits(probe, pairs, choices.split_at), _MOST_SPLITS_TRIED):
        verdicts, tracer = judge_layers(probe, pairs, graphs, split, choices)
        eligible = [name for name, reason in verdicts.items() if reason is None]
        levels = make_levels(probe, eligible, choices) if eligible else ()
        attempt = _Attempt(split, feature, tracer, levels, _skipped(verdicts, levels))
        if levels:
            return attempt
        first = first or attempt
    assert first is not None  # `possible_splits` raises, or yields one
    raise NothingToConvertError(_nothing(first.split, first.skipped))


def _dac_and_widths(choices: Choices, chosen: _Attempt, parameters: int) -> tuple[nn.Module, int, tuple[int, ...]]:
    """A DAC to measure (the one that is trained is made anew by `hairify`), D, and the hidden widths of the HSNs."""
    source, feature = choices.dac, chosen.feature
    giv_dim = measure_dac(source, feature.shape) if isinstance(source, nn.Module) else choices.giv_dim
    blocks, box_sizes = [len(v.blocks) for v in chosen.levels], [v.box_size for v in chosen.levels]
    channels = feature.channels if source == "moments" else None
    giv_dim, widths = hsn_widths(choices.preset, giv_dim, channels, blocks, box_sizes, parameters)
    with seeded(torch.Generator()):
        dac = make_dac(source, feature.shape, giv_dim, single=feature.is_single)
        measured = measure_dac(dac, feature.shape)
    if measured != giv_dim:
        raise DACError(f"The DAC factory was asked for giv_dim={giv_dim}, but its product returns {measured} numbers.")
    return dac, giv_dim, widths


def _skipped(verdicts: dict[str, str | None], levels: tuple[Level, ...]) -> dict[str, str]:
    converted = layers_of(levels)
    return {
        name: reason or "not part of a repeated block" for name, reason in verdicts.items() if name not in converted
    }


def _added(levels: tuple[Level, ...], dac: nn.Module, giv_dim: int, widths: Sequence[int]) -> int:
    """How many parameters the conversion adds."""
    added = count(dac)
    for level in levels:
        with torch.device("meta"):
            hsn = HyperSelectingNet(giv_dim, len(level.blocks), level.box_size, widths)
        added += count(hsn) + level.box_parameters - len(level.blocks) * level.row_parameters
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
