"""`python -m benchmarks.planning`: how long a conversion takes, and how much memory beside the network."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks import memory
from benchmarks.networks import build
from benchmarks.report import table
from hairify import hairify
from hairify._support.counting import count
from hairify.models import airnet, restormer, unet

_MEBIBYTE = 2**20


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int], dict[str, Any]]] = {
    "unet": (unet, (256, 256), {}),
    "restormer": (restormer, (64, 96), {}),
    "airnet": (airnet, (64, 96), {"split_at": "R.body.2", "include": ("R.body.3", "R.body.4")}),
    "swinir": (lambda: build("swinir"), (64, 96), {}),
}
"""Network, size of the example image, and options of the conversion."""


def main(arguments: list[str] | None = None) -> int:
    """Measure the chosen conversions; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__)
    parser.add_argument("networks", nargs="*", choices=[*CASES, []], help=f"otherwise {', '.join(CASES)}")
    parser.add_argument("--times", type=int, default=3, help="how often each is converted; the median counts")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: as many as it takes by itself")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    hairify(unet())  # what is loaded once
    rows = [_measured(name, options.times) for name in options.networks or CASES]
    print(table(("network", "image", "parameters", "seconds", "MiB above the network"), rows))
    return 0


def _measured(name: str, times: int) -> tuple[str, ...]:
    make, (height, width), options = CASES[name]
    network = make()
    images = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    example = (images, images) if name == "airnet" else images
    seconds: list[float] = []

    def convert() -> None:
        start = time.perf_counter()
        hairify(network, example_inputs=example, **options)
        seconds.append(time.perf_counter() - start)

    highest = memory.peak(convert, "cpu")
    for _ in range(times - 1):
        convert()
    size = count(network)
    mebibytes = "?" if highest is None else f"{highest / _MEBIBYTE:,.0f}"
    return name, f"{height}×{width}", f"{size:,}", f"{statistics.median(seconds):.1f}", mebibytes


if __name__ == "__main__":
    raise SystemExit(main())
