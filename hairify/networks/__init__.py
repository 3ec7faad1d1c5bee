"""Networks by name, and how any network is run on images."""

from hairify.networks._embedding import ConditionalEmbedding
from hairify.networks._named import BUILT_IN, Network, NetworkSettings
from hairify.networks._running import apply, number_of_inputs
from hairify.networks._sizes import smallest_multiple

__all__ = [
    "BUILT_IN",
    "ConditionalEmbedding",
    "Network",
    "NetworkSettings",
    "apply",
    "number_of_inputs",
    "smallest_multiple",
]
