"""Processes that train together, and tensors of which each of them may hold a shard only."""

from __future__ import annotations

import contextlib
import datetime
import warnings
from collections.abc import Iterator

from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.state import AcceleratorState, GradientState, PartialState  # type: ignore[import-untyped]
from accelerate.utils import (  # type: ignore[import-untyped]
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
)
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from hairify.errors import OptionError
from hairify.training._settings import TrainingSettings

# The others wait while the main process validates and writes; PyTorch's ten minutes are too short for whole test sets.
_PATIENCE = datetime.timedelta(hours=12)


def processes(settings: TrainingSettings) -> PartialState:
    """This process among those that the launcher started. What opens their group first decides how long they wait."""
    return PartialState(cpu=settings.cpu, timeout=_PATIENCE)


@contextlib.contextmanager
def accelerated(settings: TrainingSettings) -> Iterator[Accelerator]:
    """The processes and the device of a run, as the launcher and the settings have them.

    accelerate keeps one state per process. What this context made of it, it takes away again, so that the next run
    may have other settings; the process group stays.

    Raises:
        OptionError: the settings ask for what these processes or this device cannot do.
    """
    alone, made_here = not PartialState._shared_state, not AcceleratorState._shared_state
    try:
        with warnings.catch_warnings():
            # PyTorch's advice to leave off `find_unused_parameters` where a first step used all of them.
            warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
            yield accelerator_for(settings)
    finally:
        if made_here:
            AcceleratorState._reset_state(reset_partial_state=alone)
            GradientState._reset_state()


def accelerator_for(settings: TrainingSettings) -> Accelerator:
    """Accelerate's own object for these settings.

    Raises:
        OptionError: see `accelerated`.
    """
    try:
        accelerator = Accelerator(
            cpu=settings.cpu,
            mixed_precision=settings.mixed_precision,
            fsdp_plugin=sharding_plugin() if settings.fsdp else None,
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=_PATIENCE),
                # Each process may use other parts of a network at each step, such as experts, and some are never used.
                DistributedDataParallelKwargs(find_unused_parameters=True),
            ],
        )
    except ValueError as error:
        raise OptionError(
            f"accelerate does not accept these settings (`cpu`={settings.cpu}, `mixed_precision`="
            f"{settings.mixed_precision!r}) here: {error}"
        ) from error
    if settings.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise OptionError("`mixed_precision` is 'fp16', which needs a GPU; on the CPU, 'no' and 'bf16' are accepted.")
    if settings.fsdp and accelerator.distributed_type != DistributedType.FSDP:
        raise OptionError(
            f"`fsdp` shards a network over GPUs, but here {accelerator.num_processes} process(es) train on "
            f"{accelerator.device.type}. Start one for each GPU by `accelerate launch` or `torchrun`, or leave it off."
        )
    return accelerator


def sharding_plugin() -> FullyShardedDataParallelPlugin:
    """FSDP2 with the network as one unit, gathered for each step.

    It keeps weights in their own type: autocast lowers the precision, as it does without sharding. FSDP's lowering
    would round the boxes' rows before they are mixed.
    """
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        cpu_ram_efficient_loading=False,
        reshard_after_forward=True,
        mixed_precision_policy=MixedPrecisionPolicy(),
    )


def whole(tensor: Tensor) -> Tensor:
    """A copy on the CPU, in contiguous memory of its own, gathered where it is sharded: all processes then call it."""
    gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return gathered.detach().to("cpu", copy=True).contiguous()


def like(template: Tensor, value: Tensor) -> Tensor:
    """A whole tensor on the template's device, sharded as the template is. All processes have the same value."""
    value = value.to(template.device, template.dtype)
    if not isinstance(template, DTensor):
        return value
    return distribute_tensor(value, template.device_mesh, template.placements)
