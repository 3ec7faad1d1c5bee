"""`HairModel.graph()`: DAC, HSNs, boxes and per-image operations as explicit nodes of a torch.fx graph."""

from __future__ import annotations

import inspect
from typing import Any

import torch.fx
from torch import nn

from hairify._support.copying import copy_model
from hairify._support.isolation import isolated
from hairify._support.randomness import ONE_AT_A_TIME
from hairify._support.torch_internals import forward_hooks, forward_pre_hooks, set_tracer, traced_constants
from hairify.errors import GraphError
from hairify.nn._baking import unhook
from hairify.nn._checkpointing import stop_checkpointing
from hairify.nn._converted import Converted
from hairify.nn._fx_tracer import IN_PLACE, InPlaceTracer, ModelTracer
from hairify.nn._layers import HyperLayer


def graph(hair: Converted) -> torch.fx.GraphModule:
    """Trace a copy of the model. The hook at the split is traced too, and taken off the copy afterwards.

    Args:
        hair: left as it is.

    Raises:
        GraphError: torch.fx cannot follow the network.
    """
    _check_hooks(hair)
    copied = copy_model(hair)
    stop_checkpointing(copied.base, copied._context)
    split = copied.base.get_submodule(hair._context.split)
    grid = hair._context.feature.grid
    reference = None if grid is None or grid.module is None else copied.base.get_submodule(grid.module)
    parts = {id(copied.dac), id(copied.standardization), *map(id, copied.hsn), *map(id, copied.boxes)}

    def after_leaf(module: nn.Module, output: Any) -> None:
        if module is reference:
            copied._context.on_reference(module, (), output)
        if module is split:
            copied._context.on_split(module, (), output)

    tracer = ModelTracer(
        keep=lambda module: isinstance(module, HyperLayer),
        leaf=lambda module: id(module) in parts,
        after=after_leaf,
        buffers=True,
    )
    try:
        copied.__class__ = _with_required_arguments(copied)
        with ONE_AT_A_TIME, isolated(copied):
            traced = tracer.trace(copied)
            set_tracer(traced, InPlaceTracer)
            root = copy_model(hair)  # in the copy that was traced, attributes that forward assigns hold proxies now
            vars(root).update(traced_constants(copied))
            unhook(root.base, root._context)
            module = torch.fx.GraphModule(root, traced, class_name=f"Hair{type(hair.base).__name__}")
            module.graph.eliminate_dead_code(lambda node: node.is_impure() or _writes_in_place(node))
            module.recompile()
    except Exception as error:
        raise GraphError(
            f"torch.fx cannot follow the model ({type(hair.base).__name__}): {type(error).__name__}: {error}. "
            "`torch.export` follows more networks."
        ) from error
    return module


def _check_hooks(hair: Converted) -> None:
    """Hooks that the graph would lose, or run in another order than the model.

    Raises:
        GraphError: there are some.
    """
    if forward_hooks(hair) or forward_pre_hooks(hair):
        raise GraphError("The HairModel has forward hooks of its own, which a graph would lose. Take them off first.")
    hooks = list(forward_hooks(hair.base.get_submodule(hair._context.split)).values())
    if hooks.index(hair._context.on_split) < len(hooks) - 1:
        raise GraphError(
            f"The split '{hair._context.split}' got forward hooks after its conversion, which in a graph would run "
            "before the DAC. Take them off first."
        )


def _with_required_arguments(hair: Converted) -> type[Converted]:
    """The model's class with a forward that takes what its base's must be given.

    torch.fx makes an input of every argument that it reads off a function's code. Those with a default must be left
    out: `if mask is None` cannot be decided for an input.
    """
    cls = type(hair)
    parameters = list(inspect.signature(hair.base.forward).parameters.values())
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise TypeError("its forward takes any number of arguments")
    needed = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    names = [p.name for p in needed if p.kind is not p.KEYWORD_ONLY]
    keywords = [p.name for p in needed if p.kind is p.KEYWORD_ONLY]
    takes = ", ".join(["self", *names, *(["*", *keywords] if keywords else [])])
    gives = ", ".join([*names, *(f"{name}={name}" for name in keywords)])
    namespace: dict[str, Any] = {}
    exec(f"def forward({takes}): return super(made, self).forward({gives})", namespace)
    made = type(cls.__name__, (cls,), {"forward": namespace["forward"]})
    namespace["made"] = made
    return made


def _writes_in_place(node: torch.fx.Node) -> bool:
    """Whether a node may matter though nobody uses its result."""
    if node.op == "call_module":  # whatever it does inside
        return True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    writes = name in IN_PLACE or (name.endswith("_") and not name.endswith("__"))
    return writes or bool(node.kwargs.get("inplace")) or "out" in node.kwargs
