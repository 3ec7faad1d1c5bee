"""Two processes with an image each train as one process with both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
import torch.distributed

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch is built without gloo")

Run = Callable[..., None]


@pytest.fixture(scope="module")
def both() -> Iterator[processes.Processes]:
    with processes.processes() as started:
        yield started


@pytest.fixture
def run(both: processes.Processes, tmp_path: Path) -> Run:
    return lambda work, *args: both.run(work, tmp_path / "meeting", *args)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("nafnet", {}, (24, 32)),
        ("nafnet", {}, (8, 12)),  # where the DAC gets no more than a few pixels, it must leave no parameter out
        ("unet", {"gradient_as_bucket_view": True}, (24, 32)),
        ("window", {"static_graph": True}, (24, 32)),
        ("low rank", {}, (24, 32)),
        ("unused", {"find_unused_parameters": True}, (24, 32)),
        ("unused", {"static_graph": True}, (24, 32)),
    ],
)
def test_distributed_data_parallel(run: Run, name: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    run(processes.data_parallel, name, options, size)


def test_distributed_data_parallel_checkpointed(run: Run) -> None:
    run(processes.data_parallel, "nafnet", {}, (24, 32), True)


def test_a_layer_that_is_never_called_is_named_by_distributed_data_parallel(run: Run) -> None:
    run(processes.data_parallel_needs_to_look_for_the_unused)


@pytest.mark.parametrize("options", [{"find_unused_parameters": True}, {"static_graph": True}])
def test_distributed_data_parallel_conditioned(run: Run, options: dict[str, Any]) -> None:
    run(processes.data_parallel_conditioned, "nafnet", options)


# A box returns views of what it mixed; PyTorch warns that these must not be changed in place, which no layer does.
views = pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
on_cpu = pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason="this PyTorch shards on GPUs only")


@pytest.mark.slow
@views
@on_cpu
@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize(
    "work",
    [
        processes.fully_sharded,
        processes.fully_sharded_and_checkpointed,
        processes.fully_sharded_low_rank,
        processes.fully_sharded_conditioned,
        processes.fully_sharded_in_half_precision,
    ],
)
def test_fully_sharded(run: Run, work: Callable[..., None], parts: bool) -> None:
    run(work, parts)


@pytest.mark.parametrize("how", ["ddp", pytest.param("fsdp", marks=on_cpu)])
def test_processes_that_are_seeded_differently_draw_the_same_rows(run: Run, how: str) -> None:
    run(processes.seeded_differently, how)


def test_what_is_in_distributed_data_parallel_is_converted_and_saved(run: Run, tmp_path: Path) -> None:
    run(processes.wrapped_in_data_parallel, tmp_path)


@pytest.mark.slow
@on_cpu
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("units", ["base", "split", "both"])
def test_looking_at_a_sharded_model_leaves_nothing_gathered(run: Run, units: str, gradients: bool) -> None:
    run(processes.fully_sharded_looked_at, units, gradients)


@pytest.mark.parametrize("parts", [False, True])
def test_what_is_sharded_is_not_saved(run: Run, parts: bool, tmp_path: Path) -> None:
    run(processes.fully_sharded_is_not_saved, parts, tmp_path)
