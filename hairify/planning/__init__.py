"""What a conversion will do, decided by watching the network on example inputs; nothing is changed here."""

from typing import TYPE_CHECKING

from hairify._support.on_demand import on_demand

if TYPE_CHECKING:
    from hairify.planning._options import Options
    from hairify.planning._planner import plan
    from hairify.planning._plans import Level, Plan
    from hairify.planning._presets import PRESETS, Preset
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "_options": ("Options",),
            "_planner": ("plan",),
            "_plans": ("Level", "Plan"),
            "_presets": ("PRESETS", "Preset"),
        },
    )

__all__ = ["PRESETS", "Level", "Options", "Plan", "Preset", "plan"]
