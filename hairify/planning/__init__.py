"""What a conversion will do, decided by watching the network on example inputs; nothing is changed here."""

from hairify.planning._options import Options
from hairify.planning._planner import plan
from hairify.planning._plans import Level, Plan
from hairify.planning._presets import PRESETS, Preset

__all__ = ["PRESETS", "Level", "Options", "Plan", "Preset", "plan"]
