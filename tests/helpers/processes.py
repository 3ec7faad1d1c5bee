"""Two processes that train one network together, and what each of them does; test_distributed sends them their work.

Each compares with a single process that has the whole batch, run beside it: from the same seed, both have the same.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from networks import NETWORKS, Chain, NAFBlock
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel
from util import assert_close, assert_differs, perturb

from hairify import HairModel, hairify, load, save
from hairify.errors import CheckpointError

WORLD = 2
TIMEOUT = datetime.timedelta(seconds=60)  # for what one process waits on the other, should that have failed
TOLERANCE = 1e-12


class Processes:
    """Started once for all tests, since each takes seconds to import torch."""

    def __init__(self) -> None:
        context = mp.get_context("spawn")
        self._pools = [
            ProcessPoolExecutor(1, context, initializer=torch.set_num_threads, initargs=(1,)) for _ in range(WORLD)
        ]

    def run(self, work: Callable[..., None], meeting: Path, *args: Any) -> None:
        """Let each process do `work(rank, *args)`, in a process group made for it; raise what the first of them did."""
        tasks = [pool.submit(_join, work, meeting, rank, args) for rank, pool in enumerate(self._pools)]
        done, _ = wait(tasks, timeout=3 * TIMEOUT.total_seconds(), return_when=FIRST_EXCEPTION)
        failed = [task for task in done if task.exception() is not None]
        wait(tasks, timeout=TIMEOUT.total_seconds())  # where one failed, the other notices: the next test needs both
        for task in failed or tasks:
            task.result(timeout=0)

    def close(self) -> None:
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)


def _join(work: Callable[..., None], meeting: Path, rank: int, args: tuple[Any, ...]) -> None:
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=WORLD, timeout=TIMEOUT)
    try:
        work(rank, *args)
    finally:
        dist.destroy_process_group()


# Networks


class Unused(Chain):
    """One layer is called by no forward."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(8, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 1))
        self.never = nn.Conv2d(8, 8, 1)


def images(size: tuple[int, int] = (24, 32)) -> Tensor:
    """One for each process, from dark to bright, so that their selecting vectors differ."""
    return torch.rand(WORLD, 3, *size).double() * torch.linspace(0.2, 1, WORLD).double().view(-1, 1, 1, 1)


def converted(name: str) -> HairModel:
    """The same in all processes, and so are the images that follow."""
    torch.manual_seed(0)
    hair = copy.deepcopy(_converted(name))
    torch.manual_seed(1)
    return hair


@functools.cache
def _converted(name: str) -> HairModel:
    model = Unused() if name == "unused" else NETWORKS["nafnet" if name == "low rank" else name]()
    preset: Any = "default" if name == "low rank" else "published"
    hair, x = perturb(hairify(model.double().eval(), preset=preset, example_inputs=images()[:1])), images()
    with torch.no_grad():
        assert_differs(hair.bake(x[:1])(x[1:]), hair(x[1:]), 1e-4)
    return hair


def loss(output: Tensor) -> Tensor:
    return output.square().mean()


def assert_same_gradients(model: nn.Module, alone: HairModel, *, without: tuple[str, ...] = ()) -> None:
    """Relative to the largest of all: some, as that of a bias before a norm, are zero but for rounding."""
    largest = max(p.grad.abs().max() for p in alone.parameters() if p.grad is not None)
    idle = set()
    for (name, mine), (_, expected) in zip(model.named_parameters(), alone.named_parameters(), strict=True):
        if expected.grad is None:
            idle.add(name)
            assert mine.grad is None, f"{name} has a gradient"
        else:
            assert mine.grad is not None, f"{name} has no gradient"
            error = (whole(mine.grad) - expected.grad).abs().max()
            assert error <= TOLERANCE * largest, f"the gradient of {name} is off by {error / largest:.3g}"
    expected_idle = {name for name, _ in alone.named_parameters() if name.startswith(without)} if without else set()
    assert idle == expected_idle


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def assert_in_step(model: nn.Module, alone: HairModel) -> None:
    """The parameters are the same in all processes, bit for bit, and those of the single process up to rounding."""
    values = [whole(parameter.detach()) for parameter in model.parameters()]
    mine = torch.cat([value.flatten() for value in values])
    everywhere = [torch.empty_like(mine) for _ in range(WORLD)]
    dist.all_gather(everywhere, mine)
    assert all(torch.equal(mine, other) for other in everywhere)
    for value, (name, expected) in zip(values, alone.named_parameters(), strict=True):
        error = (value - expected).abs().max()
        assert error <= 1e-10 * expected.abs().max(), f"{name} is off by {error:.3g}"


# DistributedDataParallel


def data_parallel(
    rank: int, name: str, options: dict[str, Any], size: tuple[int, int], checkpointed: bool = False
) -> None:
    """Gradients and two optimizer steps are those of one process with the whole batch."""
    alone = converted(name)
    together = copy.deepcopy(alone).checkpoint_blocks(checkpointed)
    ddp, before = DistributedDataParallel(together, **options), copy.deepcopy(alone.state_dict())
    optimizers = [torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9) for model in (ddp, alone)]
    for _ in range(2):
        x = images(size)
        for optimizer in optimizers:
            optimizer.zero_grad()
        output, expected = ddp(x[rank : rank + 1]), alone(x)
        assert_close(output, expected[rank : rank + 1], TOLERANCE)
        loss(output).backward()
        loss(expected).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert_same_gradients(ddp.module, alone, without=("base.never",))
    assert_in_step(ddp.module, alone)
    moved = {n.split(".")[0] for n, v in alone.state_dict().items() if not torch.equal(v, before[n])}
    assert moved == {name.partition(".")[0] for name, _ in alone.named_parameters()}


def data_parallel_needs_to_look_for_the_unused(rank: int) -> None:
    """What DistributedDataParallel says by itself comes through."""
    ddp, x = DistributedDataParallel(converted("unused")), images()[rank : rank + 1]
    loss(ddp(x)).backward()
    with pytest.raises(RuntimeError, match="find_unused_parameters=True"):
        ddp(x)


def data_parallel_conditioned(rank: int, name: str, options: dict[str, Any]) -> None:
    """The DAC is skipped and gets no gradient; the rest gets that of one process under the same GIVs."""
    alone = converted(name)
    ddp = DistributedDataParallel(copy.deepcopy(alone), **options)
    swapped = alone.giv(images()).detach().flip(0)
    for _ in range(2):
        x = images()
        ddp.zero_grad()
        alone.zero_grad()
        with ddp.module.conditioned_on(swapped[rank : rank + 1]), alone.conditioned_on(swapped):
            output, expected = ddp(x[rank : rank + 1]), alone(x)
        assert_close(output, expected[rank : rank + 1], TOLERANCE)
        loss(output).backward()
        loss(expected).backward()
        assert_same_gradients(ddp.module, alone, without=("dac.",))
    assert_differs(expected, alone(x), 1e-4)


# FSDP2


def shard(hair: HairModel, *, parts: bool, **options: Any) -> HairModel:
    """The whole model as one unit, or boxes, HSNs, DAC and blocks as units of their own first."""
    options["mesh"] = init_device_mesh("cpu", (WORLD,))
    if parts:
        blocks = [module for module in hair.base.modules() if isinstance(module, NAFBlock)]
        for module in (*hair.boxes, *hair.hsn, hair.dac, *blocks):
            fully_shard(module, **options)
    fully_shard(hair, **options)
    return hair


def fully_sharded_and_checkpointed(rank: int, parts: bool) -> None:
    """The blocks' second run, in the backward pass, gathers what it needs."""
    fully_sharded(rank, parts, checkpointed=True)


def fully_sharded_low_rank(rank: int, parts: bool) -> None:
    fully_sharded(rank, parts, name="low rank")


def fully_sharded(rank: int, parts: bool, checkpointed: bool = False, name: str = "nafnet") -> None:
    """Outputs, gradients and two optimizer steps are those of one process with the whole batch."""
    alone = converted(name)
    hair = shard(copy.deepcopy(alone).checkpoint_blocks(checkpointed), parts=parts)
    boxes = [p for n, p in hair.named_parameters() if n.startswith("boxes")]
    assert all(p.to_local().numel() < p.numel() for p in boxes if len(p) > 1)
    optimizers = [torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9) for model in (hair, alone)]
    for _ in range(2):
        x = images()
        for optimizer in optimizers:
            optimizer.zero_grad()
        output, expected = hair(x[rank : rank + 1]), alone(x)
        assert_close(output, expected[rank : rank + 1], TOLERANCE)
        loss(output).backward()
        loss(expected).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert_same_gradients(hair, alone)
    assert_in_step(hair, alone)
    x = images()
    with torch.no_grad():
        assert_close(hair(x[rank : rank + 1]), alone(x)[rank : rank + 1], 1e-10)
    gathered = converted(name)
    gathered.load_state_dict(get_model_state_dict(hair, options=StateDictOptions(full_state_dict=True)))
    with torch.no_grad():
        assert_close(gathered(x), alone(x), 1e-10)
        assert_close(gathered.bake(x[:1])(x[:1]), alone(x[:1]), 1e-10)


def fully_sharded_conditioned(rank: int, parts: bool) -> None:
    """`giv` runs once it is registered as a forward; its GIVs give the outputs and gradients of one process."""
    alone = converted("nafnet")
    hair = shard(copy.deepcopy(alone), parts=parts)
    register_fsdp_forward_method(hair, "giv")
    x = images()
    mine, others = x[rank : rank + 1], x[1 - rank : 2 - rank]
    with torch.no_grad():
        giv, expected_giv = hair.giv(others), alone.giv(x).flip(0)
        assert_close(giv, expected_giv[rank : rank + 1], TOLERANCE)
    with hair.conditioned_on(giv), alone.conditioned_on(expected_giv):
        output, expected = hair(mine), alone(x)
        assert_close(output, expected[rank : rank + 1], TOLERANCE)
        loss(output).backward()
        loss(expected).backward()
    assert_same_gradients(hair, alone, without=("dac.",))
    assert_differs(expected, alone(x), 1e-4)
    with torch.no_grad():
        assert_close(hair(mine), alone(mine), TOLERANCE)


def seeded_differently(rank: int, how: str) -> None:
    """All start from the same rows, though each has a seed of its own."""
    torch.manual_seed(0)
    network = NETWORKS["nafnet"]().double().eval()
    torch.manual_seed(100 + rank)
    hair = hairify(network, example_inputs=images()[:1])
    drawn = torch.cat([p.detach().flatten() for p in hair.parameters()])
    everywhere = [torch.empty_like(drawn) for _ in range(WORLD)]
    dist.all_gather(everywhere, drawn)
    assert torch.equal(everywhere[0], everywhere[1])
    if how == "fsdp":
        fully_shard(hair, mesh=init_device_mesh("cpu", (WORLD,)))
        after = torch.cat([whole(p.detach()).flatten() for p in hair.parameters()])
    else:
        after = torch.cat([p.detach().flatten() for p in DistributedDataParallel(hair).parameters()])
    assert torch.equal(after, drawn)
    own = hairify(network, example_inputs=images()[:1], generator=torch.Generator().manual_seed(rank))
    assert not torch.equal(torch.cat([p.detach().flatten() for p in own.parameters()]), drawn)


def wrapped_in_data_parallel(rank: int, folder: Path) -> None:
    """What DistributedDataParallel holds is converted, and saved."""
    torch.manual_seed(0)
    network = NETWORKS["nafnet"]().double().eval()
    hair = hairify(DistributedDataParallel(network), example_inputs=images()[:1])
    assert list(hair.state_dict()) == list(hairify(network, example_inputs=images()[:1]).state_dict())
    save(DistributedDataParallel(hair), folder / f"{rank}.safetensors")
    x = images()
    loaded = load(folder / f"{rank}.safetensors", DistributedDataParallel(network))
    assert torch.equal(loaded(x), hair(x))


def fully_sharded_looked_at(rank: int, units: str, gradients: bool) -> None:
    """What `giv` and `selecting_vectors` gathered is free again, and gathered again where gradients need it."""
    alone, x = converted("nafnet"), images()
    hair, options = copy.deepcopy(alone), {"mesh": init_device_mesh("cpu", (WORLD,)), "reshard_after_forward": True}
    split = hair.base.get_submodule(hair.plan.split)
    for module in {"base": [hair.base], "split": [split], "both": [split, hair.base]}[units]:
        fully_shard(module, **options)
    fully_shard(hair, **options)
    for method in ("giv", "selecting_vectors"):
        register_fsdp_forward_method(hair, method)
    before: set[str] = set()
    with torch.set_grad_enabled(gradients):
        for _ in range(2):
            giv, expected = hair.giv(x), alone.giv(x)
            assert_close(giv, expected, TOLERANCE)
            before = before or gathered(hair)  # the root gathers for its first forward and keeps, as with any module
            assert gathered(hair) == before
            assert not any(name.startswith("base.") for name in before) or units == "split"
            if gradients:
                loss(giv).backward()
                loss(expected).backward()
                assert not gathered(hair)
        for name, vector in hair.selecting_vectors(x).items():
            assert_close(vector, alone.selecting_vectors(x)[name], TOLERANCE)
        assert gathered(hair) == before
    hair.zero_grad()
    alone.zero_grad()
    loss(hair(x)).backward()
    loss(alone(x)).backward()
    assert_same_gradients(hair, alone)
    assert not gathered(hair)


def gathered(hair: nn.Module) -> set[str]:
    """The parameters that are whole in this process."""
    return {name for name, parameter in hair.named_parameters() if not hasattr(parameter, "to_local")}


def fully_sharded_is_not_saved(rank: int, parts: bool, folder: Path) -> None:
    """A process has no more than its shards."""
    hair, file = shard(converted("nafnet"), parts=parts), folder / f"{rank}.safetensors"
    with pytest.raises(CheckpointError, match="full_state_dict"):
        save(hair, file)
    assert not list(folder.glob(f"{rank}.*"))


def fully_sharded_in_half_precision(rank: int, parts: bool) -> None:
    """With bfloat16 parameters during a call, it is as exact as one process whose parameters are bfloat16."""
    exact = converted("nafnet").float()
    hair = shard(copy.deepcopy(exact), parts=parts, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    x = images().float()
    mine, low = x[rank : rank + 1], copy.deepcopy(exact).bfloat16()
    with torch.no_grad():
        wanted = exact(mine)
        own, ours = low(mine.bfloat16()).float() - wanted, hair(mine).float() - wanted
    assert ours.square().mean() <= 4 * own.square().mean()
    loss(hair(mine)).backward()
    for name, parameter in hair.named_parameters():
        assert parameter.grad.dtype == torch.float32, name
        assert whole(parameter.grad).isfinite().all(), name


@contextlib.contextmanager
def processes() -> Iterator[Processes]:
    both = Processes()
    try:
        yield both
    finally:
        both.close()
