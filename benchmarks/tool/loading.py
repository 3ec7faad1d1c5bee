"""Patches a second that one process loads, and what memory it takes."""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from benchmarks.measure import timed
from benchmarks.tool.rounds import Row
from hairify.data.datasets import Task
from hairify.data.images import Image, read_rgb, write
from hairify.data.photographs import TRAINING, photographs
from hairify.data.samples import TrainingSamples, collate

SIDES = (1224, 1632)
"""Of a photograph of two megapixels."""

PATCH, BATCH = 64, 8
FORMATS = ("png", "jpg")
DEGRADATIONS = ("noise25", "defocus")
_GRAIN = 2 / 255  # enlarged photographs are smoother than those of a camera, and would be quicker to decode


def rows(patches: int) -> Iterator[Row]:
    """Each format and degradation: photographs that are decoded for each patch, and such as are in memory."""
    with tempfile.TemporaryDirectory() as name:
        for ending in FORMATS:
            paths = make(Path(name), ending)
            for degradation in DEGRADATIONS:
                yield from _measured(paths, ending, degradation, patches)
            yield _worker(paths, ending, patches)


def make(folder: Path, ending: str) -> tuple[Path, ...]:
    """Photographs of two megapixels, enlarged from small ones, with grain."""
    generator = Generator().manual_seed(0)
    made = []
    for path in photographs(TRAINING):
        large = F.interpolate(read_rgb(path)[None], SIDES, mode="bicubic")[0]
        grain = torch.randn(large.shape, generator=generator) * _GRAIN
        made.append(folder / f"{path.stem}.{ending}")
        write(Image((large + grain).clamp(0, 1)), made[-1])
    return tuple(made)


def _measured(paths: tuple[Path, ...], ending: str, degradation: str, patches: int) -> Iterator[Row]:
    tasks = [Task(degradation, degradation, paths, None)]
    for kept, limit in (("decoded each time", 0), ("in memory", 2**30)):
        samples = TrainingSamples(tasks, PATCH, 0, limit)
        count = patches if limit else max(patches // 20, 2 * len(paths))
        for index in range(8 * len(paths)) if limit else ():
            _ = samples[index]  # until all are in memory
        seconds = [timed(functools.partial(samples.__getitem__, 1000 + index), "cpu") for index in range(count)]
        yield Row(f"{ending}, {degradation}, {kept}", "patches", 1, seconds)


def _worker(paths: tuple[Path, ...], ending: str, patches: int) -> Row:
    """A process of a DataLoader, as training has it, with all photographs in memory in the end."""
    samples = TrainingSamples([Task("noise25", "noise25", paths, None)], PATCH, 0, 2**30)
    batches = [[*range(first, first + BATCH)] for first in range(0, patches + 16 * BATCH, BATCH)]
    loaded = iter(DataLoader(samples, batch_sampler=batches, collate_fn=collate, num_workers=1))
    for _ in itertools.islice(loaded, 16):  # in which it decodes them
        pass
    start = time.perf_counter()
    count = sum(len(batch["task"]) for batch in loaded_until_last(loaded, patches // BATCH - 1))
    seconds = time.perf_counter() - start
    more = {"MiB of its own": _private(loaded) / 2**20}
    return Row(f"{ending}, noise25, one worker of a DataLoader", "patches", count, [seconds], more=more)


def loaded_until_last(batches: Iterator[dict[str, Tensor]], count: int) -> Iterator[dict[str, Tensor]]:
    """So many batches: with the last one, the worker would end."""
    return itertools.islice(batches, count)


def _private(loaded: Iterator[object]) -> int:
    """Bytes that a worker shares with no other process; 0 where the system does not tell."""
    workers = getattr(loaded, "_workers", [])
    try:
        lines = Path(f"/proc/{workers[0].pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except (IndexError, OSError):
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
