"""Training and evaluation mode of a network's parts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluation_mode(*networks: nn.Module) -> Iterator[None]:
    """Within it, networks are in evaluation mode; after it, each part is in its own again.

    Only the flags change: the methods `eval` and `train` of some networks merge weights, or take them apart.
    """
    modes = {module: module.training for network in networks for module in network.modules()}
    for module, mode in modes.items():
        if mode:  # threads may share what is in evaluation mode
            module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            if module.training != mode:
                module.training = mode
