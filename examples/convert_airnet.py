"""Convert AirNet by HAIR, check the exact start, train a few steps with its contrastive loss.

    pip install '.[demo]'
    python examples/convert_airnet.py [--checkpoint FILE]

About a minute on two CPU cores. The photographs come with scikit-image, of the `demo` extra.
"""

import copy
from collections.abc import Sequence

import common
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hairify import HairModel, hairify, plan
from hairify.models import airnet

SMALL = {"dim": 8, "blocks": 3}

# AirNet keeps one resolution, so the split is half-way through the restorer's five groups. Of what runs after it only
# the last two groups are repeated blocks; the convolutions at the end are left alone.
SPLIT, GROUPS = "R.body.2", ("R.body.3", "R.body.4")

# F_g has the patch's resolution: from 8 on all of the DAC is trained. The two patches overlap.
IMAGE, PATCH = 64, 48


def loss(network: nn.Module, degraded: Tensor, clean: Tensor) -> Tensor:
    """AirNet's: L1 of one patch of each image, and the contrast of that patch with another one of the same image."""
    query, key, target = degraded[..., :PATCH, :PATCH], degraded[..., -PATCH:, -PATCH:], clean[..., :PATCH, :PATCH]
    restored, logits, labels = network(query, key)
    return F.l1_loss(restored, target) + 0.1 * F.cross_entropy(logits, labels)


def main(arguments: Sequence[str] | None = None) -> None:
    options = common.parse(__doc__, arguments, steps=8)
    torch.manual_seed(options.seed)
    network = common.prepare(airnet(**SMALL if options.small else {}), options.checkpoint)

    print(f"split {SPLIT}: half-way through the five groups of the restorer")
    print(f"include {', '.join(GROUPS)}: the groups after it\n")
    image = torch.rand(1, 3, 32, 48)  # two inputs; small ones make planning quick
    p = plan(network, split_at=SPLIT, include=GROUPS, example_inputs=(image, image))
    print(p)
    hair = hairify(network, plan=p, generator=torch.Generator().manual_seed(options.seed))

    common.check_start(network, hair, inputs=2)
    queue = hair.base.E.E.queue.clone()

    def measure(hair: HairModel, degraded: Tensor, clean: Tensor) -> float:
        # In a copy, for in training mode a forward fills the queue and moves the key encoder; and against the same
        # queue before and after: contrast is harder with the real keys that training puts in the place of random ones.
        probe = copy.deepcopy(hair).train()
        probe.base.E.E.queue.copy_(queue)
        return float(loss(probe, degraded, clean))

    common.train_a_little(hair, options, size=IMAGE, loss=loss, measure=measure)


if __name__ == "__main__":
    main()
