"""What a run that goes on must have in common with what was begun."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hairify.training._settings import TrainingSettings

# With another of these, a resumed run would not be the run that was begun.
FIXED = (
    *("batch_size", "seed", "ema_decay", "freeze_base", "calibration", "classify"),
    *("progression", "loss", "uncertainty"),
)
# These may change, as they must where a loss was not finite; the run says so, for it is no longer an unbroken one.
ADJUSTABLE = (
    *("learning_rate", "final_learning_rate", "warm_up", "warm_up_epochs"),
    *("schedule", "hold_epochs", "cosine_epochs", "rates"),
    *("weight_decay", "clip_norm", "mixed_precision", "tf32", "channels_last", "compile"),
)
# What runs begun by hairify 0.1 say nothing of: some of it is what it is now, the rest was as it is by default.
_AS_NOW = ("calibration", "classify", "warm_up")
_SAMPLES_BEFORE = {"augmentation": "flips", "repeats": {}, "shares": {}}


def settings_agreed(settings: TrainingSettings, steps: int) -> dict[str, Any]:
    """What settings have to say of it, as JSON has it.

    Args:
        settings: the recipe.
        steps: of the whole run, of which the stages of a progression are shares.
    """
    agreed = {name: _plain(getattr(settings, name)) for name in (*FIXED, *ADJUSTABLE)}
    return agreed | {"steps": steps} if settings.progression else agreed


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """In what a run is another now, in words, by what it is."""
    by_default = {field.name: _plain(field.default) for field in fields(TrainingSettings)} | {"rates": {}}
    before = by_default | _SAMPLES_BEFORE | {name: now[name] for name in _AS_NOW} | dict(then)
    return {key: f"`{key}` was {before.get(key)}, is {now[key]}" for key in now if before.get(key) != now[key]}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value
