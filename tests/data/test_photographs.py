"""The photographs that packages bring along."""

from __future__ import annotations

import pytest

from hairify.data.photographs import HELD_OUT, TRAINING, photographs
from hairify.errors import DataError


def test_photographs_are_held_out() -> None:
    assert not set(TRAINING) & set(HELD_OUT)
    assert all(path.is_file() for path in photographs((*TRAINING, *HELD_OUT)))
    with pytest.raises(DataError, match="does not ship the photograph 'nothing'"):
        photographs(["nothing"])
