"""hairify: any image-to-image network becomes an all-in-one restorer by HAIR.

HAIR (Hypernetworks-based All-in-One Image Restoration) gives a network weights of its own for each image.
"""

from hairify.conversion import hairify
from hairify.errors import HairError
from hairify.model import HairModel
from hairify.planning._planner import plan
from hairify.planning._plans import Plan
from hairify.serialization import load, save

__version__ = "0.1.0"

__all__ = ["HairError", "HairModel", "Plan", "hairify", "load", "plan", "save"]
