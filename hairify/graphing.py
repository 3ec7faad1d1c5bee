"""`HairModel.graph()`: DAC, HSNs, boxes and per-image operations as explicit nodes of a torch.fx graph."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch.fx
from torch import nn

from hairify.baking import unhook
from hairify.copying import copy_model
from hairify.errors import GraphError
from hairify.layers import HyperLayer
from hairify.probing import isolated
from hairify.tracing import ModelTracer

if TYPE_CHECKING:
    from hairify.model import HairModel


def graph(hair: HairModel) -> torch.fx.GraphModule:
    """Trace a copy of the model. The hook at the split is traced too, and taken off the copy afterwards.

    Args:
        hair: left as it is.

    Raises:
        GraphError: torch.fx cannot follow the network.
    """
    copied = copy_model(hair)
    split = copied.base.get_submodule(hair.plan.split)
    parts = {id(copied.dac), *map(id, copied.hsn), *map(id, copied.boxes)}

    def after_leaf(module: nn.Module, output: Any) -> None:
        if module is split:
            copied._scope.on_split(module, (), output)

    tracer = ModelTracer(
        keep=lambda module: isinstance(module, HyperLayer),
        leaf=lambda module: id(module) in parts,
        after=after_leaf,
    )
    copied.__class__ = _with_signature_of_base(copied)
    try:
        with isolated(copied):
            traced = tracer.trace(copied)
    except Exception as error:
        raise GraphError(
            f"torch.fx cannot follow the model ({type(hair.base).__name__}), as its `forward` depends on shapes "
            f"or values: {error}. `torch.export` follows more networks."
        ) from error
    unhook(split, copied._scope)
    module = torch.fx.GraphModule(copied, traced, class_name=f"Hair{type(hair.base).__name__}")
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _with_signature_of_base(hair: HairModel) -> type[HairModel]:
    """The model's class with a forward of its base's signature: fx makes one graph input per argument of it."""
    cls = type(hair)

    @functools.wraps(type(hair.base).forward)
    def forward(self: HairModel, *args: Any, **kwargs: Any) -> Any:
        return cls.forward(self, *args, **kwargs)

    return type(cls.__name__, (cls,), {"forward": forward})
