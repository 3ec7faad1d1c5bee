"""The kernels of per-image operations on a GPU, beside the ordinary operation: what `choose_kernel` should go by.

Unlike `benchmarks.kernels`, which times calls, this is the time of the GPU alone: calls are recorded as a CUDA graph,
so that neither Python nor the starts of kernels count.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch

from benchmarks.kernels import KERNELS, MIXING, ON_GPUS, TINY, Calls, Problem, Shape, backward_calls, forward_calls
from benchmarks.measure import timed
from benchmarks.report import table
from hairify.functional import mix, mix_low_rank
from hairify.nn._warm_start import limited_rank

Precision: TypeAlias = Literal["bfloat16", "TF32", "float32"]

SHAPES = (
    Shape(128, 256, 32),  # NAFNet-like, in the middle
    Shape(96, 288, 128),  # Restormer, the last levels
    Shape(384, 1152, 16),  # and the latent one
    Shape(256, 256, 32, 3, groups=0),
    Shape(288, 288, 128, 3, groups=0),
    Shape(1152, 1152, 16, 3, groups=0),
    Shape(64, 64, 64, 3),  # the U-Net
    Shape(256, 256, 16, 3),
    Shape(60, 60, 128, 3),  # SwinIR-like
    Shape(60, 180, 128, 0),
    Shape(256, 128, 16, 2, stride=2, transposed=True),
)

# As many calls are recorded as take so long together, at most.
_SECONDS, _MOST_CALLS, _REPLAYS = 1e-3, 10, 5

_ROWS, _RANK = 4, 8  # of the boxes that `hairify` makes by default


@dataclass(frozen=True)
class Setting:
    """In which numbers, layout and direction it is. By "float32" are PyTorch's defaults meant: TF32 in convolutions."""

    batch: int
    precision: Precision
    channels_last: bool
    backward: bool

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "contiguous"
        return f"{'backward' if self.backward else 'forward'}, {self.batch} images, {self.precision}, {layout}"


@dataclass
class Row:
    """What one operation gave.

    Attributes:
        shape: it.
        setting: in which.
        chosen: what hairify takes.
        ordinary: seconds of the operation with one weight for all images.
        ratios: of each way to compute it with weights per image.
        failed: why there are none.
    """

    shape: str
    setting: Setting
    chosen: str = ""
    ordinary: float = 0.0
    ratios: dict[str, float] = field(default_factory=dict)
    failed: str | None = None


def settings(batches: Sequence[int]) -> list[Setting]:
    """The most important first."""
    precisions: tuple[Precision, ...] = ("bfloat16", "TF32", "float32")
    orders = itertools.product(batches, precisions, (False, True), (False, True))
    return [Setting(batch, precision, last, back) for batch, precision, back, last in orders]


def rows(device: str, quick: bool) -> Iterator[Row]:
    """One after another, as long as they are asked for."""
    for setting in settings((2,) if quick else (8, 32)):
        for shape in TINY if quick else SHAPES:
            is_linear = not shape.kernel
            if (is_linear and setting.channels_last) or (setting.precision == "float32" and not _is_product(shape)):
                continue
            yield measured(shape, setting, device)


def _is_product(shape: Shape) -> bool:
    """Whether it is a matrix product, for which alone the two settings of TF32 differ."""
    return shape.kernel in (0, 1)


@torch.no_grad()
def measured(shape: Shape, setting: Setting, device: str) -> Row:
    """One row; what fails is a row, too."""
    row = Row(str(shape), setting)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest" if setting.precision == "float32" else "high")
    try:
        dtype = torch.bfloat16 if setting.precision == "bfloat16" else torch.float32
        problem = Problem.of(shape, setting.batch).to(device, dtype, channels_last=setting.channels_last)
        row.chosen = problem.chosen_kernel() if setting.backward else problem.chosen()
        calls = backward_calls(problem) if setting.backward else forward_calls(problem)
        seconds = {name: gpu_seconds(call, device) for name, call in calls.items()}
        row.ordinary = seconds.pop("ordinary")
        row.ratios = {name: value / row.ordinary for name, value in seconds.items()}
    except Exception as error:  # the others are worth having all the same
        row.failed = f"{type(error).__name__}: {str(error).strip()[:200]}"
    finally:
        torch.set_float32_matmul_precision("high")
        if device == "cuda":
            torch.cuda.empty_cache()  # each graph has memory of its own
    return row


def gpu_seconds(call: Callable[[], object], device: str) -> float:
    """Of one call, the median over replays of the CUDA graph of some; on a CPU the time of a call."""
    if device == "cpu":
        timed(call, device)
        return timed(call, device)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        call()  # the first may choose an algorithm
        torch.cuda.synchronize()
        once = timed(call, device)
        calls = max(1, min(_MOST_CALLS, round(_SECONDS / once)))
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin()
        try:
            for _ in range(calls):
                call()
        finally:
            graph.capture_end()
        graph.replay()
        return statistics.median(_replayed(graph) / calls for _ in range(_REPLAYS))


def _replayed(graph: torch.cuda.CUDAGraph) -> float:
    """Seconds of one replay."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


@torch.no_grad()
def making(device: str, quick: bool) -> Iterator[list[str]]:
    """Rows of the table of what making weights takes, in microseconds."""
    for shape in TINY if quick else SHAPES:
        cells = [str(shape)]
        for batch in (1, 2) if quick else (1, 8, 32):
            problem = Problem.of(shape, batch).to(device, torch.float32)
            for call in making_calls(problem).values():
                cells.append(f"{1e6 * gpu_seconds(call, device):.0f}")
        yield cells


def making_calls(problem: Problem) -> Calls:
    """Making weights from a full box, and from one of low rank."""
    weight = problem.rows[0]
    selecting = problem.selecting[:, :_ROWS].contiguous()
    rank, columns = limited_rank(weight.shape, _RANK), weight[0].numel()
    left = torch.randn(_ROWS, weight.shape[0], rank, device=weight.device)
    right = torch.randn(_ROWS, rank, columns, device=weight.device)
    return {
        "full": lambda: mix(problem.selecting, problem.rows),
        "low rank": lambda: mix_low_rank(selecting, weight, left, right),
    }


COLUMNS = (*KERNELS, *ON_GPUS, MIXING)


def as_table(found: Sequence[Row]) -> str:
    """Ratios to the ordinary operation, in bold what hairify takes."""
    head = ["operation", "ordinary, µs", *COLUMNS, "making weights"]
    body = []
    for row in found:
        if row.failed is not None:
            body.append([row.shape, row.failed, *[""] * (len(head) - 2)])
            continue
        cells = [_cell(row, name) for name in (*COLUMNS, "making weights")]
        body.append([row.shape, f"{1e6 * row.ordinary:.1f}", *cells])
    return table(head, body)


def _cell(row: Row, name: str) -> str:
    if name not in row.ratios:
        return ""
    return f"**{row.ratios[name]:.2f}**" if name == row.chosen else f"{row.ratios[name]:.2f}"
