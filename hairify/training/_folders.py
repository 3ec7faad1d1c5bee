"""What the folder of a run holds, by name."""

from __future__ import annotations

MODEL, BEST = "model", "best"
"""The newest network, and the one with the best score."""

START = "start"
"""The restorer that a second stage began with."""

CHECKPOINTS = "checkpoints"
"""What a run goes on from."""
