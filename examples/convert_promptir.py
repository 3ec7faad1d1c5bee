"""Convert PromptIR by HAIR, check the exact start, train a few steps.

    pip install '.[tool]'
    python examples/convert_promptir.py [--checkpoint FILE]

About a minute on two CPU cores. The photographs come with scikit-image, of the `tool` extra.
"""

from collections.abc import Sequence
from typing import Any

import common
import torch

from hairify import hairify, plan
from hairify.models import promptir

SMALL: dict[str, Any] = {
    "dim": 8,
    "num_blocks": (2, 2, 2, 3),
    "num_refinement_blocks": 2,
    "prompt_dims": (4, 8, 8),
    "prompt_sizes": (8, 4, 2),
}

# With PromptIR's neck these two upsamplings have the same shape. They would be taken for a level of two blocks, but
# stand at different places of the network; in the paper's Restormer they are no level.
NO_LEVEL = ("up4_3", "up3_2")

# From 64 on, all of the DAC is trained: F_g, at an eighth, is then large enough for both of its downsamplings.
PATCH = 64


def main(arguments: Sequence[str] | None = None) -> None:
    options = common.parse(__doc__, arguments, steps=8)
    torch.manual_seed(options.seed)
    network = common.prepare(promptir(**SMALL if options.small else {}), options.checkpoint)

    print("split: automatic, after the last downsampling, as in the paper's Restormer")
    print(f"exclude {', '.join(NO_LEVEL)}: alike by chance, no repeated blocks\n")
    p = plan(network, preset="published", exclude=NO_LEVEL)
    print(p)
    hair = hairify(network, plan=p, generator=torch.Generator().manual_seed(options.seed))

    common.check_start(network, hair)
    common.train_a_little(hair, options, size=PATCH)


if __name__ == "__main__":
    main()
