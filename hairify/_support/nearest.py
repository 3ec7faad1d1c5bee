"""What to say of a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def named_nearest(name: str, accepted: Collection[str]) -> str:
    """Which names there are, and which of them is nearest to one that is not among them."""
    near = difflib.get_close_matches(name, accepted, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"accepted are {', '.join(accepted)}.{hint}"
