"""What a run that is gone on with must have in common with the one that was begun."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from hairify.data.samples import TrainingSamples
from hairify.model import HairModel
from hairify.training._settings import TrainingSettings

FREE = frozenset(
    {
        *("accumulation", "checkpoint_blocks", "save_every", "validate_every", "keep_checkpoints", "workers"),
        *("log_with", "best_by", "fsdp", "cpu", "tune"),
    }
)
"""Settings that change nothing of what is learned, but for rounding."""

ADJUSTABLE = frozenset(
    {
        *("learning_rate", "final_learning_rate", "schedule", "warm_up", "warm_up_epochs", "hold_epochs"),
        *("cosine_epochs", "rates", "weight_decay", "clip_norm"),
        *("mixed_precision", "tf32", "channels_last", "compile"),
        *("steps", "epochs", "final_epochs"),
    }
)
"""Settings that may change, some of them as they must where a loss was not finite; the run says so, for it is no longer
an unbroken one. With any other setting changed, it would not be the run that was begun."""

_LENGTH = ("steps", "epochs", "final_epochs")

# What runs begun by former versions say nothing of: some of it is what it is now, the rest was as it is by default.
_AS_NOW = ("calibration", "classify", "warm_up", *_LENGTH)
_SAMPLES_BEFORE = {"augmentation": "flips", "repeats": {}, "shares": {}}


def agreed(settings: TrainingSettings, model: nn.Module, samples: TrainingSamples) -> dict[str, Any]:
    """What a checkpoint keeps of settings, network and data, as JSON has it."""
    limit = model.plan.hsn_limit if isinstance(model, HairModel) else None  # no part of the weights
    return {**_plain(settings), "hsn_limit": limit, **_as_json(samples.about())}


def compared(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What is another now, in words: what may be, and what may not.

    Args:
        then: `agreed` of the run that was begun.
        now: `agreed` of the one that is to go on.
    """
    before = {**now, **_plain(TrainingSettings()), **_SAMPLES_BEFORE, **{name: now[name] for name in _AS_NOW}, **then}
    others = {name: f"`{name}` was {before[name]}, is {now[name]}" for name in now if before[name] != now[name]}
    fixed = set(now) - ADJUSTABLE
    if now["progression"]:
        fixed |= {*_LENGTH}  # its stages are shares of the steps
    may = [text for name, text in others.items() if name not in fixed]
    may_not = [text for name, text in others.items() if name in fixed]
    # Steps go before epochs, which then only say at which share of them the learning rate falls.
    if now["steps"] is not None and "steps" not in others and others.keys() & {"epochs", "final_epochs"}:
        may_not.append(f"the run's length is given by `steps` ({now['steps']}), not by epochs; give other `steps`")
    return may, may_not


def _plain(settings: TrainingSettings) -> dict[str, Any]:
    return _as_json({name: value for name, value in asdict(settings).items() if name not in FREE})


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(values, default=str)))
