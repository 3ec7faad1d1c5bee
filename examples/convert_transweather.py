"""Convert TransWeather by HAIR, check the exact start, train a few steps.

    pip install '.[tool]'
    python examples/convert_transweather.py [--checkpoint FILE]

Under a minute on two CPU cores. The photographs come with scikit-image, of the `tool` extra.
"""

from collections.abc import Sequence
from typing import Any

import common
import torch

from hairify import hairify, plan
from hairify.models import transweather

SMALL: dict[str, Any] = {"dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1)}

# The encoder looks at the image, so all of it is the first half. What gets weights for each image are the blocks of the
# transformer decoder. The convolution tail is the same few layers at every resolution, none of them repeated: as levels
# of their own they would double in size, where the paper counts 42M parameters.
SPLIT, NO_LEVEL = "Tenc", ("convtail", "clean")

# All of the DAC is trained from 256 on: F_g, here at a 32nd, is then large enough for both of its downsamplings.
PATCH = 256


def main(arguments: Sequence[str] | None = None) -> None:
    options = common.parse(__doc__, arguments, steps=16)
    torch.manual_seed(options.seed)
    network = common.prepare(transweather(**SMALL if options.small else {}), options.checkpoint)

    print(f"split {SPLIT}: after the encoder")
    print(f"exclude {', '.join(NO_LEVEL)}: only the decoder's blocks are repeated (hence the plan's warning)\n")
    p = plan(network, preset="published", split_at=SPLIT, exclude=NO_LEVEL)
    print(p)
    hair = hairify(network, plan=p, generator=torch.Generator().manual_seed(options.seed))

    common.check_start(network, hair)
    common.train_a_little(hair, options, size=PATCH)


if __name__ == "__main__":
    main()
