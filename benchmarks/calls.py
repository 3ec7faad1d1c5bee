"""`python -m benchmarks.calls`: what a call of a hyper layer takes beside the ordinary layer's, in microseconds.

The layers are so small that calling them is all that counts: a chain of 1×1 and 3×3 convolutions of 16 channels on maps
of 4×4, in one thread. Making the weights is measured by itself and taken off. Of several images, what is left contains
the operations with per-image weights, too, which take longer than one with the same weight for all.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from benchmarks import machine, shares
from benchmarks.report import table
from hairify import HairModel, hairify

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
            calls = _calls(static, hair, torch.rand(batch, 3, _SIZE, _SIZE))
            plain, ours, made = microseconds(calls, rounds)
            yield [f"{preset}, {batch} image(s)", f"{plain:.1f}", f"{ours - plain - made:.1f}", f"{made:.1f}"]
        images = torch.rand(8, 3, _SIZE, _SIZE)
        with hair.conditioned_on(hair.giv(images[:1])):
            plain, ours, _ = microseconds(_calls(static, hair, images), rounds)
        yield [f"{preset}, 8 images, conditioned on one GIV", f"{plain:.1f}", f"{ours - plain:.1f}", ""]


def _calls(static: nn.Module, hair: HairModel, images: Tensor) -> list[Callable[[], object]]:
    return [lambda: static(images), lambda: hair(images), generation(hair, images)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="of calls in turn (default: 300)")
    rounds = parser.parse_args(arguments).rounds
    torch.set_num_threads(1)
    rows = [row for preset in get_args(Preset) for row in _rows(preset, rounds)]
    print(machine.describe())
    print(table(["µs for each layer", "nn.Conv2d", "hyper layer, beyond", "making weights, by itself"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
