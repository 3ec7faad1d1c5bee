"""Networks by name, and how any network is run on images."""

from typing import TYPE_CHECKING

from hairify._support.on_demand import on_demand

if TYPE_CHECKING:
    from hairify.networks._embedding import ConditionalEmbedding
    from hairify.networks._named import BUILT_IN, Network, NetworkSettings
    from hairify.networks._running import apply, number_of_inputs
    from hairify.networks._sizes import smallest_multiple
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "_embedding": ("ConditionalEmbedding",),
            "_named": ("BUILT_IN", "Network", "NetworkSettings"),
            "_running": ("apply", "number_of_inputs"),
            "_sizes": ("smallest_multiple",),
        },
    )

__all__ = [
    "BUILT_IN",
    "ConditionalEmbedding",
    "Network",
    "NetworkSettings",
    "apply",
    "number_of_inputs",
    "smallest_multiple",
]
