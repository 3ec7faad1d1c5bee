"""`python -m benchmarks.kernels`: the kernels of per-image operations, beside the ordinary operation with one weight.

It prints Markdown. What hairify takes is in bold type: a kernel, or in the forward table the other side of the
distributive law.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.measure import ratios, rotated, timed
from benchmarks.report import table
from hairify.functional import _kernels as kernels
from hairify.functional import mix
from hairify.functional._kernels import Case, Kernel
from hairify.functional._mixing import mix_outputs, outputs_are_cheaper
from hairify.functional._operations import (
    Linear,
    Operation,
    convolution,
    is_channels_last,
    transposed_convolution,
)

KERNELS: tuple[Kernel, ...] = ("matmul", "grouped", "loop", "unfolded")
ON_GPUS: tuple[Kernel, ...] = ("triton",)
MIXING = "mixing outputs"
MAKING = "making weights"
ALL = (True, True, True)

# Of the sets that weights are mixed from.
_BOX_SIZE = 5

# A shorter measurement repeats the call, and divides.
_LEAST_SECONDS = 0.01


@dataclass(frozen=True)
class Shape:
    """An operation, and what it works on.

    Attributes:
        incoming: channels.
        outgoing: channels.
        size: of the map's sides.
        kernel: 0 for a linear layer over windows of 8×8.
        stride: in both directions.
        groups: as in torch; 0 for depthwise.
        transposed: whether it is the transposed convolution.
    """

    incoming: int
    outgoing: int
    size: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    transposed: bool = False

    def __str__(self) -> str:
        kind = f"{self.kernel}×{self.kernel}" if self.kernel else "linear over windows"
        words = [kind, *(["transposed"] if self.transposed else []), *(["depthwise"] if not self.groups else [])]
        words += [f"stride {self.stride}"] if self.stride > 1 else []
        words += [f"{self.groups} groups"] if self.groups > 1 else []
        channels = f"{self.incoming}" if self.incoming == self.outgoing else f"{self.incoming} → {self.outgoing}"
        return f"{' '.join(words)}, {channels} at {self.size}²"


SHAPES = (
    *(Shape(*sizes) for sizes in ((48, 144, 128), (64, 128, 128), (60, 180, 64), (96, 288, 32), (128, 256, 32))),
    *(Shape(*sizes) for sizes in ((192, 576, 16), (384, 1152, 16), (384, 1152, 8), (512, 512, 4))),
    *(Shape(c, c, size, 3) for c, size in ((64, 128), (64, 64), (60, 64), (64, 32), (128, 32), (256, 16))),
    *(Shape(c, c, size, 3) for c, size in ((256, 8), (512, 8), (512, 4))),
    *(Shape(c, c, size, 3, groups=0) for c, size in ((144, 128), (288, 128), (288, 32), (1152, 16), (1152, 8))),
    Shape(64, 64, 64, 3, groups=4),
    Shape(64, 128, 64, 2, stride=2),
    Shape(64, 128, 64, 3, stride=2),
    Shape(128, 64, 32, 2, stride=2, transposed=True),
    Shape(256, 128, 16, 2, stride=2, transposed=True),
    Shape(60, 180, 64, 0),
    Shape(180, 360, 32, 0),
)
TINY = (
    Shape(8, 8, 8),
    Shape(8, 8, 8, 3),
    Shape(8, 8, 8, 3, groups=0),
    Shape(8, 4, 4, 2, 2, transposed=True),
    Shape(4, 8, 8, 0),
)


@dataclass
class Problem:
    """A shape with numbers."""

    operation: Operation
    input: Tensor
    rows: Tensor
    bias: Tensor
    selecting: Tensor

    @classmethod
    def of(cls, shape: Shape, batch: int) -> Problem:
        """Random numbers in float32, on the CPU."""
        groups = shape.groups or shape.incoming
        selecting = torch.rand(batch, _BOX_SIZE).softmax(1)
        bias = torch.randn(_BOX_SIZE, shape.outgoing)
        if not shape.kernel:
            images = torch.randn(batch * shape.size**2 // 64, 64, shape.incoming)
            rows = torch.randn(_BOX_SIZE, shape.outgoing, shape.incoming)
            return cls(Linear(), images, rows, bias, selecting)
        images = torch.randn(batch, shape.incoming, shape.size, shape.size)
        kernel = (shape.kernel, shape.kernel)
        if shape.transposed:
            operation = transposed_convolution(images, kernel, shape.stride, groups=groups)[1]
            channels = (shape.incoming, shape.outgoing // groups)
        else:
            operation = convolution(images, kernel, shape.stride, (shape.kernel - 1) // 2, groups=groups)[1]
            channels = (shape.outgoing, shape.incoming // groups)
        return cls(operation, images, torch.randn(_BOX_SIZE, *channels, *kernel), bias, selecting)

    def to(self, device: str, dtype: torch.dtype, *, channels_last: bool = False) -> Problem:
        """The same numbers elsewhere, maps in the given layout."""
        input, rows, bias = (t.to(device, dtype) for t in (self.input, self.rows, self.bias))
        if channels_last:
            input = input.contiguous(memory_format=torch.channels_last)
        return Problem(self.operation, input, rows, bias, self.selecting.to(device, dtype))

    def kernels(self) -> list[Kernel]:
        """The kernels that can compute the operation: among those that tuning tries the ones for compilers."""
        if isinstance(self.operation, Linear):
            return ["matmul"]
        weight, input, layout = self.rows.shape[1:], self.input, is_channels_last(self.input)
        case = Case(self.operation, len(self.selecting), input.shape, weight, input.dtype, input.device.type, layout)
        return [*kernels.able(case), "unfolded"]

    def chosen(self) -> str:
        """What hairify computes it by."""
        if outputs_are_cheaper(self.operation, self.input, self.selecting, self.rows):
            return MIXING
        return self.chosen_kernel()

    def chosen_kernel(self) -> str:
        """What hairify computes it by, once there are weights."""
        return kernels.choice_for(self.operation, self.input, mix(self.selecting, self.rows)).forward


Calls = dict[str, Callable[[], object]]


def forward_calls(problem: Problem) -> Calls:
    """By name, first the ordinary operation."""
    p = problem
    weight, bias = mix(p.selecting, p.rows), mix(p.selecting, p.bias)
    calls: Calls = {"ordinary": lambda: p.operation(p.input, p.rows[0], p.bias[0])}
    for kernel in p.kernels():
        calls[kernel] = forced(kernel, lambda: kernels.per_image(p.operation, p.input, weight, bias))
    calls[MAKING] = lambda: mix(p.selecting, p.rows)
    calls[MIXING] = lambda: mix_outputs(p.operation, p.input, p.selecting, p.rows, p.bias)
    return calls


def backward_calls(problem: Problem) -> Calls:
    """The gradients of input, weight and bias, as a training step asks for them."""
    p = problem
    weight = mix(p.selecting, p.rows)
    grad = torch.randn_like(p.operation(p.input, p.rows[0], p.bias[0]))
    calls: Calls = {"ordinary": lambda: kernels.per_image_backward(p.operation, grad, p.input, p.rows[:1], ALL)}
    for kernel in p.kernels():
        if kernel != "unfolded":  # only compilers and exporters use it, which differentiate it themselves
            calls[kernel] = forced(kernel, lambda: kernels.per_image_backward(p.operation, grad, p.input, weight, ALL))
    return calls


def forced(kernel: Kernel, call: Callable[[], object]) -> Callable[[], object]:
    """The call, with this kernel whatever the shapes."""

    def choose(*arguments: object) -> Kernel:
        return kernel

    def run() -> object:
        with mock.patch.object(kernels, "choose_kernel", choose):
            return call()

    return run


def compare(calls: Calls, rounds: int) -> tuple[float, dict[str, float]]:
    """Seconds of the first call, and medians of the others' ratios to it."""
    first = next(iter(calls))
    repeats = {}
    for name, call in calls.items():
        timed(call, "cpu")
        repeats[name] = max(1, round(_LEAST_SECONDS / timed(call, "cpu")))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in rotated(list(calls), turn):
            seconds[name].append(timed(calls[name], "cpu", repeats[name]))
    medians = {name: statistics.median(ratios(times, seconds[first])) for name, times in seconds.items()}
    return statistics.median(seconds[first]), medians


def rows(shapes: Sequence[Shape], batch: int, rounds: int, backward: bool) -> Iterator[list[str]]:
    """The rows of the table."""
    for shape in shapes:
        problem = Problem.of(shape, batch)
        with torch.no_grad():
            calls = backward_calls(problem) if backward else forward_calls(problem)
            seconds, medians = compare(calls, rounds)
        chosen = problem.chosen_kernel() if backward else problem.chosen()
        cells = [_cell(name, medians, chosen) for name in _columns(backward)]
        yield [str(shape), f"{1000 * seconds:.2f}", *cells]


def _columns(backward: bool) -> list[str]:
    return [kernel for kernel in KERNELS if kernel != "unfolded"] if backward else [*KERNELS, MAKING, MIXING]


def _cell(name: str, medians: dict[str, float], chosen: str) -> str:
    if name not in medians:
        return ""
    return f"**{medians[name]:.2f}**" if name == chosen else f"{medians[name]:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--batch", type=int, default=8, help="images; default 8")
    parser.add_argument("--rounds", type=int, default=9, help="default 9")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: whether it runs at all")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    print(f"{machine.describe()}\n\n{options.batch} images, weights from N = {_BOX_SIZE} sets.")
    for backward in (False, True):
        title = "Backward: all three gradients" if backward else "Forward"
        body = rows(TINY if options.quick else SHAPES, options.batch, options.rounds, backward)
        print(f"\n## {title}\n\n{table(['operation', 'ordinary, ms', *_columns(backward)], body)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
