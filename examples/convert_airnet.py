"""Convert AirNet by HAIR, check the exact start, train a few steps with its contrastive loss.

    pip install '.[tool]'
    python examples/convert_airnet.py [--checkpoint FILE]

About a minute on two CPU cores. The photographs come with scikit-image, of the `tool` extra.
"""

import copy
from collections.abc import Sequence
from typing import Any

import common
import torch
from torch import Tensor

from hairify import HairModel, hairify, plan
from hairify.models import airnet
from hairify.training import airnet_loss

SMALL: dict[str, Any] = {"dim": 8, "blocks": 3}

# AirNet keeps one resolution, so the split is half-way through the restorer's five groups. Of what runs after it only
# the last two groups are repeated blocks; the convolutions at the end are left alone.
SPLIT, GROUPS = "R.body.2", ("R.body.3", "R.body.4")

# Its loss takes two overlapping patches of three quarters of it. F_g has their resolution: from 8 on all of the DAC is
# trained.
SIZE = 64


def main(arguments: Sequence[str] | None = None) -> None:
    options = common.parse(__doc__, arguments, steps=8)
    torch.manual_seed(options.seed)
    network = common.prepare(airnet(**SMALL if options.small else {}), options.checkpoint)

    print(f"split {SPLIT}: half-way through the five groups of the restorer")
    print(f"include {', '.join(GROUPS)}: the groups after it\n")
    image = torch.rand(1, 3, 32, 48)  # two inputs; small ones make planning quick
    p = plan(network, preset="published", split_at=SPLIT, include=GROUPS, example_inputs=(image, image))
    print(p)
    hair = hairify(network, plan=p, generator=torch.Generator().manual_seed(options.seed))

    common.check_start(network, hair, inputs=2)
    queue = hair.get_buffer("base.E.E.queue").clone()

    def measure(hair: HairModel, degraded: Tensor, clean: Tensor) -> float:
        # In a copy, for in training mode a forward fills the queue and moves the key encoder; and against the same
        # queue before and after: contrast is harder with the real keys that training puts in the place of random ones.
        probe = copy.deepcopy(hair).train()
        probe.get_buffer("base.E.E.queue").copy_(queue)
        return float(airnet_loss(probe, degraded, clean).mean())

    common.train_a_little(hair, options, size=SIZE, loss=airnet_loss, measure=measure)


if __name__ == "__main__":
    main()
