"""Convert Restormer by HAIR, check the exact start, train a few steps.

    pip install '.[tool]'
    python examples/convert_restormer.py [--checkpoint FILE]

About a minute on two CPU cores. The photographs come with scikit-image, of the `tool` extra.
"""

from collections.abc import Sequence
from typing import Any

import common
import torch

from hairify import hairify, plan
from hairify.models import restormer

SMALL: dict[str, Any] = {"dim": 8, "num_blocks": (2, 2, 2, 3), "num_refinement_blocks": 2}

# From 64 on, all of the DAC is trained: F_g, at an eighth, is then large enough for both of its downsamplings.
PATCH = 64


def main(arguments: Sequence[str] | None = None) -> None:
    options = common.parse(__doc__, arguments, steps=8)
    torch.manual_seed(options.seed)
    network = common.prepare(restormer(**SMALL if options.small else {}), options.checkpoint)

    # In the paper's form nothing else has to be said: the automatic split is the feature at the lowest resolution, and
    # the levels are the paper's: latent, decoder and refinement.
    print("split: automatic, after the last downsampling, as in the paper\n")
    p = plan(network, preset="published")
    print(p)
    hair = hairify(network, plan=p, generator=torch.Generator().manual_seed(options.seed))

    common.check_start(network, hair)
    common.train_a_little(hair, options, size=PATCH)


if __name__ == "__main__":
    main()
