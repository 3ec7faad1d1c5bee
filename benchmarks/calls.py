"""`python -m benchmarks.calls`: what a call of a hyper layer takes beside the ordinary layer's, in microseconds.

The layers are so small that calling them is all that counts: a chain of 1×1 and 3×3 convolutions of 16 channels on maps
of 4×4, in one thread. Making the weights and the operations with weights that are there, as functions, are measured by
themselves and taken off both; what is left are the calls.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from benchmarks import machine, shares
from benchmarks.report import table
from hairify import HairModel, hairify
from hairify.functional._kernels import choice_for
from hairify.functional._kernels import per_image as compute_per_image
from hairify.functional._operations import convolution

Preset: TypeAlias = Literal["default", "published"]

_LAYERS = 40
_CHANNELS = 16
_SIZE = 4


def chain() -> nn.Sequential:
    """The ordinary network; what is before the split is its first layer alone."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(_CHANNELS, _CHANNELS, k, padding=k // 2) for k in (1, 3) * (_LAYERS // 2))
    return nn.Sequential(nn.Conv2d(3, _CHANNELS, 1), *layers).eval()


def generation(hair: HairModel, images: Tensor) -> Callable[[], None]:
    """A call that finds the GIV and makes all weights, and nothing else."""
    feature = shares.feature_of(hair, images)
    find = shares.classifier(hair, feature)
    with torch.no_grad():
        make = shares.generator(hair, hair.giv(images))

    def both() -> None:
        find()
        make()

    return both


def operations(static: nn.Sequential, images: Tensor, *, per_image: bool) -> Callable[[], None]:
    """The layers' operations as functions, with one weight for all images or one for each, and nothing else."""
    ready: list[Callable[[], Tensor]] = []
    input = static[0](images)
    for layer in cast(Iterable[nn.Conv2d], static[1:]):
        assert layer.bias is not None
        _, operation = convolution(input, layer.kernel_size, padding=layer.padding)
        weight, bias = (t.detach().expand(len(images), *t.shape).contiguous() for t in (layer.weight, layer.bias))
        if per_image:
            kernel = choice_for(operation, input, weight).forward
            ready.append(partial(compute_per_image, operation, input, weight, bias, kernel))
        else:
            ready.append(partial(operation, input, weight[0], bias[0]))

    def run() -> None:
        for compute in ready:
            compute()

    return run


def microseconds(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Medians for each layer, of calls that were made in turn."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 3):
        for call, seconds in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if turn >= 3:
                seconds.append(time.perf_counter() - start)
    return [1e6 * statistics.median(seconds) / _LAYERS for seconds in times]


def _rows(preset: Preset, rounds: int) -> Iterator[list[str]]:
    static = chain()
    hair = hairify(static, split_at="0", preset=preset).eval()
    with torch.inference_mode():
        for batch in (1, 8):
            plain, ours, one, each, made = microseconds(
                _calls(static, hair, torch.rand(batch, 3, _SIZE, _SIZE)), rounds
            )
            beyond = (ours - each - made) - (plain - one)
            yield [f"{preset}, {batch} image(s)", *(f"{t:.1f}" for t in (plain, beyond, one, each, made))]
        images = torch.rand(8, 3, _SIZE, _SIZE)
        with hair.conditioned_on(hair.giv(images[:1])):
            plain, ours, one, *_ = microseconds(_calls(static, hair, images), rounds)
        yield [
            f"{preset}, 8 images, conditioned on one GIV",
            f"{plain:.1f}",
            f"{ours - plain:.1f}",
            f"{one:.1f}",
            "",
            "",
        ]


def _calls(static: nn.Sequential, hair: HairModel, images: Tensor) -> list[Callable[[], object]]:
    by_itself = (operations(static, images, per_image=each) for each in (False, True))
    return [lambda: static(images), lambda: hair(images), *by_itself, generation(hair, images)]


_HEAD = [
    "µs for each layer",
    "nn.Conv2d",
    "hyper layer's call, beyond",
    "operation, one weight",
    "operation, a weight for each image",
    "making weights",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="of calls in turn (default: 300)")
    rounds = parser.parse_args(arguments).rounds
    torch.set_num_threads(1)
    rows = [row for preset in get_args(Preset) for row in _rows(preset, rounds)]
    print(machine.describe())
    print(table(_HEAD, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
