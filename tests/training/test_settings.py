"""The recipe's numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hairify.errors import OptionError
from hairify.training import TrainingSettings


def test_the_paper() -> None:
    """Section 4: 150 epochs at 2e-4, then 10 at 2e-5, in batches of 32."""
    settings = TrainingSettings()
    steps = settings.total_steps(epoch=1000)
    assert steps == 160 * 32  # 1000 images are 31.25 batches
    assert [settings.rate(step, steps) for step in (1, 150 * 32, 150 * 32 + 1, steps)] == [2e-4, 2e-4, 2e-5, 2e-5]


def test_steps_in_place_of_epochs() -> None:
    settings = TrainingSettings(steps=32)
    assert settings.total_steps(epoch=1000) == 32
    assert [settings.rate(step, 32) for step in (30, 31)] == [2e-4, 2e-5]
    assert TrainingSettings(steps=8, epochs=0, final_epochs=0).rate(8, 8) == 2e-4
    assert TrainingSettings(steps=8, epochs=1, final_epochs=0).rate(8, 8) == 2e-4
    assert TrainingSettings(steps=8, epochs=0, final_epochs=1).rate(1, 8) == 2e-5


def test_shares_of_a_batch() -> None:
    settings = TrainingSettings(batch_size=24, accumulation=3)
    assert settings.images_at_once(processes=4) == 2
    with pytest.raises(OptionError, match=r"`batch_size` is 24, .* accepted are multiples of 15, such as 30"):
        settings.images_at_once(processes=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, r"`steps` is -1; accepted are 0, 1, 2"),
        ({"batch_size": 0}, r"`batch_size` is 0; accepted are 1, 2, 3"),
        ({"batch_size": 9, "accumulation": 2}, r"multiples of 2, such as 8"),
        ({"learning_rate": 0.0}, r"`learning_rate` is 0.0; accepted are positive"),
        ({"learning_rate": float("nan")}, r"`learning_rate` is nan"),
        ({"clip_norm": -1.0}, r"`clip_norm` is -1.0"),
        ({"weight_decay": -1.0}, r"`weight_decay` is -1.0"),
        ({"ema_decay": 1.0}, r"`ema_decay` is 1.0; accepted are numbers from 0"),
        ({"mixed_precision": "fp8"}, r"`mixed_precision` is 'fp8'; accepted are no, fp16, bf16"),
        ({"epochs": 0, "final_epochs": 0}, r"both 0; give one of them, or `steps`"),
    ],
)
def test_values_that_are_not_accepted(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TrainingSettings(**options)


def test_every_setting_is_documented() -> None:
    hints = TrainingSettings.__annotations__
    assert all("Doc(" in hints[field.name] for field in dataclasses.fields(TrainingSettings))
