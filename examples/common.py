"""What the examples share: the command line, and the steps between the conversion and the end."""

import argparse
import copy
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hairify import HairModel
from hairify.cli._demonstration import tasks
from hairify.data.images import read_rgb
from hairify.data.photographs import HELD_OUT, TRAINING, photographs
from hairify.data.samples import TrainingSamples, collate
from hairify.models import load_weights
from hairify.training import Loss, l1_loss

START = 1e-5
"""The largest difference of a converted network from the original, relative to the largest value of its output."""

LEARNING_RATE = 3e-4
"""For the few steps here, from fresh weights. The papers train with 1e-4 to 3e-4, for days."""


def parse(description: str | None, arguments: Sequence[str] | None, *, steps: int) -> argparse.Namespace:
    """The command line; `steps` is the default of `--steps`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="the authors' checkpoint; without: fresh weights"
    )
    parser.add_argument("--steps", type=int, default=steps, metavar="N", help="training steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of weights and patches (%(default)s)")
    parser.add_argument("--small", action="store_true", help="a small configuration, for a quick look")
    return parser.parse_args(arguments)


def prepare(network: nn.Module, checkpoint: Path | None) -> nn.Module:
    """The network in evaluation mode, with the authors' weights where they are given."""
    if checkpoint is not None:
        load_weights(network, checkpoint)
    print(f"{type(network).__name__} with {'fresh weights' if checkpoint is None else checkpoint}\n")
    return network.eval()


@torch.no_grad()
def check_start(network: nn.Module, hair: HairModel, inputs: int = 1) -> None:
    """Compare the converted network with the original on a photograph that neither is trained on.

    Args:
        network: the original.
        hair: converted; both in evaluation mode.
        inputs: how many times they take the photograph.
    """
    photograph = read_rgb(photographs(HELD_OUT[:1])[0])[None, :, 100:196, 200:296]
    expected, got = (model(*[photograph] * inputs) for model in (network, hair))
    difference = float((got - expected).abs().max() / expected.abs().max())
    print(f"\nwarm start: differs by {difference:.1e} of the largest value, on a photograph\n")
    if not difference <= START:
        sys.exit(f"The converted network does not start where the original is: more than {START:.0e}.")


def train_a_little(
    hair: HairModel,
    options: argparse.Namespace,
    *,
    size: int,
    loss: Loss = l1_loss,
    measure: Callable[[HairModel, Tensor, Tensor], float] | None = None,
) -> None:
    """Train on degraded photographs, and print the loss of one batch that is not trained on, before and after.

    Args:
        hair: is trained in place.
        options: from the command line.
        size: side of the patches; in a step there is one with noise, one with rain, one with haze.
        loss: what is brought down.
        measure: the loss that is printed; None for `loss` in evaluation mode.
    """

    def in_evaluation(hair: HairModel, degraded: Tensor, clean: Tensor) -> float:
        return float(loss(copy.deepcopy(hair).eval(), degraded, clean).mean())

    measure = measure or in_evaluation
    fixed = next(batches(size, options.seed + 1))
    with torch.no_grad():
        before = measure(hair, *fixed)
    hair.train()
    optimizer = torch.optim.AdamW(hair.parameter_groups(weight_decay=1e-4), lr=LEARNING_RATE)
    for degraded, clean in itertools.islice(batches(size, options.seed), options.steps):
        optimizer.zero_grad()
        loss(hair, degraded, clean).mean().backward()
        optimizer.step()
    with torch.no_grad():
        after = measure(hair, *fixed)
    print(f"loss of one batch: {before:.4f} before, {after:.4f} after {options.steps} steps")


def batches(size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of a degraded and a clean patch for each degradation, both (3, 3, size, size)."""
    samples = TrainingSamples(tasks(TRAINING), size, seed, cache_bytes=2**28)
    for start in itertools.count(step=len(samples.tasks)):
        batch = collate([samples[start + i] for i in range(len(samples.tasks))])
        yield batch["degraded"], batch["clean"]
