"""hairify: any image-to-image network becomes an all-in-one restorer by HAIR.

HAIR (Hypernetworks-based All-in-One Image Restoration) gives a network weights of its own for each image.
"""

from typing import TYPE_CHECKING

from hairify._support.on_demand import on_demand

if TYPE_CHECKING:
    from hairify.conversion import hairify
    from hairify.errors import HairError
    from hairify.model import HairModel
    from hairify.planning._planner import plan
    from hairify.planning._plans import Plan
    from hairify.serialization import load, save
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "conversion": ("hairify",),
            "errors": ("HairError",),
            "model": ("HairModel",),
            "planning": ("Plan", "plan"),
            "serialization": ("load", "save"),
        },
        modules=("conversion", "errors", "functional", "model", "nn", "planning", "serialization"),
    )

__version__ = "0.1.0"

__all__ = ["HairError", "HairModel", "Plan", "hairify", "load", "plan", "save"]
