"""What the constructors of the networks accept."""

from __future__ import annotations

from collections.abc import Sequence

from hairify.errors import OptionError


def check_counts(least: int = 1, **counts: int | Sequence[int]) -> None:
    """Check that options are whole numbers, or sequences of them.

    Args:
        least: the least number that is accepted.
        counts: the options, by their names.

    Raises:
        OptionError: one is not.
    """
    for name, value in counts.items():
        numbers = [value] if isinstance(value, int) else value
        if not isinstance(numbers, Sequence) or not all(type(n) is int and n >= least for n in numbers):
            raise OptionError(f"`{name}` is {value!r}; accepted are integers from {least} up.")
