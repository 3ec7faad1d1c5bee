"""All of PyTorch that hairify uses and that is not documented there, each use under a name of its own.

Where one of them is gone from a PyTorch to come, importing hairify, or the call that needs it, raises a
`TorchVersionError` that names it; none is left out in silence. `tests/support/test_torch_internals.py` has a test for
each, and knows the two methods that hairify overrides, which PyTorch calls.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Any, cast

import torch
import torch.fx
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils import _python_dispatch, checkpoint
from torch.utils import _pytree as pytree

from hairify.errors import TorchVersionError

_NEEDED: tuple[tuple[Any, str], ...] = (
    (torch._C, "_current_graph_task_id"),
    (torch._C, "_are_functorch_transforms_active"),
    (torch._C, "DisableTorchFunction"),
    (forward_ad, "_current_level"),
    (Tensor, "_version"),
    (torch.fx.Graph(), "_tracer_cls"),
    (_python_dispatch, "TorchDispatchMode"),
    (torch.ops.aten.bernoulli_.float, "_schema"),
    (torch.ops.aten.bernoulli_.float, "overloadpacket"),
    *((nn.Module(), name) for name in ("_parameters", "_buffers", "_modules")),
    *((nn.Module(), f"_{name}_hooks") for name in ("forward", "forward_pre", "backward", "backward_pre")),
    *((pytree, name) for name in ("tree_flatten", "tree_unflatten", "tree_leaves", "tree_map", "tree_map_only")),
    (nn.modules.conv, "_ConvNd"),
    (nn.modules.batchnorm, "_BatchNorm"),
)


def _gone(what: str) -> str:
    return (
        f"In PyTorch {torch.__version__} {what}. Install a release of PyTorch that this hairify was tested with, or a "
        "newer hairify."
    )


def check_torch() -> None:
    """Make sure that this PyTorch has what hairify uses of it whatever it converts.

    Raises:
        TorchVersionError: something is gone.
    """
    for owner, name in _NEEDED:
        if not hasattr(owner, name):
            where = getattr(owner, "__name__", type(owner).__name__)
            raise TorchVersionError(_gone(f"{where} has no `{name}`"))


check_torch()

# Nested values: no public module of PyTorch flattens all of the lists, tuples, dicts and dataclasses that it knows.
tree_flatten: Callable[[Any], tuple[list[Any], Any]] = pytree.tree_flatten
tree_unflatten: Callable[[list[Any], Any], Any] = pytree.tree_unflatten
tree_leaves: Callable[[Any], list[Any]] = pytree.tree_leaves
tree_map: Callable[[Callable[..., Any], Any], Any] = pytree.tree_map
tree_map_only: Callable[[type, Callable[..., Any], Any], Any] = pytree.tree_map_only


def version(tensor: Tensor) -> int:
    """How often a tensor was written to; not counted in those made in inference mode."""
    return 0 if tensor.is_inference() else tensor._version


def backward_pass() -> int:
    """The number of the backward pass that runs in this thread, -1 outside of any; always -1 in what is compiled."""
    return -1 if torch.compiler.is_compiling() else torch._C._current_graph_task_id()


def checkpointed_call() -> int | None:
    """Tells apart the innermost calls of functions that `torch.utils.checkpoint` runs, or runs again; None in none.

    It is seen by the calls that lead here; what is compiled has none.
    """
    if torch.compiler.is_compiling():
        return None
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename != checkpoint.__file__:
        frame = frame.f_back
    return None if frame is None else id(frame)


def is_traced() -> bool:
    """Whether `torch.jit.trace`, or an exporter that goes by it, records what runs."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def in_function_transform() -> bool:
    """Whether `torch.func` transforms (vmap, grad, jvp, functionalize) what runs."""
    return torch._C._are_functorch_transforms_active()


def in_forward_mode() -> bool:
    """Whether forward-mode gradients (`torch.autograd.forward_ad`) are computed."""
    return forward_ad._current_level >= 0


def without_torch_function() -> AbstractContextManager[None]:
    """Within it, no `TorchFunctionMode` and no tensor subclass sees what is computed."""
    return torch._C.DisableTorchFunction()


DispatchMode = _python_dispatch.TorchDispatchMode
"""The class of modes that see every operation of their thread, within composite ones and below autograd."""


@functools.cache
def draws(operation: Any) -> bool:
    """Whether an operation draws random numbers, or may do so."""
    return torch.Tag.nondeterministic_seeded in operation.tags


def named_arguments(operation: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of an operation, by name."""
    return {**dict(zip((a.name for a in operation._schema.arguments), args, strict=False)), **kwargs}


@functools.cache
def with_generator(operation: Any) -> Any:
    """The overload of an operation that takes the same and a `generator`; None where there is none."""

    def takes(overload: Any) -> list[tuple[str, str]]:
        return [(a.name, str(a.type)) for a in overload._schema.arguments]

    packet, own = operation.overloadpacket, takes(operation)
    overloads = [operation, *(getattr(packet, name) for name in packet.overloads())]
    wanted = [each for each in own if each[0] != "generator"]
    return next(
        (
            o
            for o in overloads
            if len(takes(o)) > len(wanted) and [e for e in takes(o) if e[0] != "generator"] == wanted
        ),
        None,
    )


_TELLS_SIZES_APART = torch.__version__ >= "2.8"  # a TorchVersion, which compares as numbers do


def has_one_value(size: int) -> bool:
    """Whether a size has one value in a program that is compiled: Dynamo shows every size as an int.

    Before PyTorch 2.8 that cannot be told, and every size counts as open.
    """
    if not _TELLS_SIZES_APART:
        return False
    from torch.fx.experimental.symbolic_shapes import has_static_value  # slow to import, and needed here alone

    return has_static_value(size)


def own_parameters(module: nn.Module) -> MutableMapping[str, nn.Parameter | None]:
    """A module's own parameters under their names, with those that are None; to be read and changed."""
    return module._parameters


def own_buffers(module: nn.Module) -> MutableMapping[str, Tensor | None]:
    """A module's own buffers under their names, with those that are None; to be read and changed."""
    return module._buffers


def own_modules(module: nn.Module) -> MutableMapping[str, nn.Module | None]:
    """A module's children under their names, with those that are None; to be read and changed."""
    return module._modules


def blank_twin(module: nn.Module) -> nn.Module:
    """A module that shares everything with another, in a `__dict__` of its own; what `compile()` made is left out."""
    made: nn.Module = object.__new__(type(module))  # classes that FSDP2 makes have a `__new__` that makes another
    made.__dict__ = {k: v for k, v in module.__dict__.items() if k != "_compiled_call_impl"}
    return made


def is_of_every_module(name: str) -> bool:
    """Whether PyTorch itself keeps something under this name in every module: parameters, buffers, children, hooks."""
    return name in _OF_EVERY_MODULE


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def forward_hooks(module: nn.Module) -> MutableMapping[int, Callable[..., Any]]:
    """A module's own forward hooks, in the order in which they run; to be read, and taken off."""
    return module._forward_hooks


def forward_pre_hooks(module: nn.Module) -> Mapping[int, Callable[..., Any]]:
    """A module's own forward pre-hooks."""
    return module._forward_pre_hooks


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of a module runs more than its class says: hooks of its own, or another `forward` put on it."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or (not torch.compiler.is_compiling() and "forward" in vars(module))  # the oldest compilers follow no `vars`
    )


CONVOLUTION: type[nn.Module] = nn.modules.conv._ConvNd
"""The class of all convolutions, transposed ones included."""

BATCH_NORM: type[nn.Module] = nn.modules.batchnorm._BatchNorm
"""The class of all batch normalisations."""


def compiled_from(module: nn.Module) -> nn.Module | None:
    """The module that `torch.compile` was given to make this one; None where it was not made so."""
    modules = module.__dict__.get("_modules", {})
    inner = dict(modules.items()).get("_orig_mod")  # those of TorchScript are no dict
    return inner if isinstance(inner, nn.Module) else None


def without_compiler() -> AbstractContextManager[Any]:
    """Within it, what is compiled runs as it was before, and nothing is compiled."""
    # The compiler is not imported here: it takes long, and what is compiled has done so.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


INNER_METHODS: Mapping[type[nn.Module], str] = {
    nn.Conv1d: "_conv_forward",
    nn.Conv2d: "_conv_forward",
    nn.ConvTranspose2d: "_output_padding",
}
"""What the forward of a layer calls on the layer itself: a subclass that overrides it computes something else."""


def inner_method(plain: type[nn.Module]) -> str | None:
    """The entry of `INNER_METHODS` for a class.

    Raises:
        TorchVersionError: the class has no such method any more, so that it is not known what a subclass may override.
    """
    name = INNER_METHODS.get(plain)
    if name is not None and not hasattr(plain, name):
        raise TorchVersionError(
            _gone(f"`{plain.__name__}` has no `{name}`, by which a subclass may compute something else than its class")
        )
    return name


def output_padding_for(
    input: Tensor, output_size: list[int], stride: Any, padding: Any, kernel_size: Any, dilation: Any
) -> Any:
    """What `nn.ConvTranspose2d` makes of its argument `output_size`; it does not look at the layer for that.

    Raises:
        TorchVersionError: `nn.ConvTranspose2d` has no method for that any more.
    """
    compute = getattr(nn.ConvTranspose2d, cast(str, inner_method(nn.ConvTranspose2d)))
    return compute(None, input, output_size, stride, padding, kernel_size, 2, dilation)


def amounts_of_padding(layer: nn.Conv1d | nn.Conv2d) -> list[int]:
    """By how much a convolution pads its input where its padding mode is not zeros, as `F.pad` has it.

    It is what the layer found when it was made: a change of its `padding` after that counts for zeros alone.

    Raises:
        TorchVersionError: layers do not keep it any more.
    """
    amounts = getattr(layer, "_reversed_padding_repeated_twice", None)
    if amounts is None:
        raise TorchVersionError(_gone(f"`{type(layer).__name__}` has no `_reversed_padding_repeated_twice`"))
    return list(amounts)


def set_tracer(graph: torch.fx.Graph, tracer: type[torch.fx.Tracer]) -> None:
    """Have pickles of the graph's module restored by a tracer of this class."""
    graph._tracer_cls = tracer


def traced_constants(root: nn.Module) -> dict[str, Any]:
    """Tensors that torch.fx put on a module while it traced it: constants of the graph, under the names used there."""
    return {name: value for name, value in vars(root).items() if name.startswith("_tensor_constant")}


def is_of_the_compiler(error: BaseException) -> bool:
    """Whether `torch.compile` itself fails, not what it compiles; false where its errors live elsewhere by now."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
