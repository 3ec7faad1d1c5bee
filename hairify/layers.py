"""Hyper layers: layers that own no weight and compute with the weights generated for each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from hairify.functional import Ints, hyper_conv1d, hyper_conv2d, hyper_conv_transpose2d, hyper_linear
from hairify.scope import Scope

# In `HairModel.graph()` each is one named node: they branch on shapes, which torch.fx cannot follow.
for _name in ("hyper_conv1d", "hyper_conv2d", "hyper_conv_transpose2d", "hyper_linear", "_output_padding"):
    torch.fx.wrap(_name)


@dataclass(frozen=True)
class Slot:
    """Where a hyper layer's weights come from.

    Attributes:
        level: index of the level, and so of its Weight Box and HSN.
        block: row of the level's selecting vectors, the block's position in its level.
        entry: the layer's name within its block, and so within the Weight Box.
        level_name: name of the level, for people.
        box_size: N, for people.
    """

    level: int
    block: int
    entry: str
    level_name: str
    box_size: int


class HyperLayer(nn.Module):
    """What all hyper layers share; mixed in before the layer class that they replace."""

    replaces: ClassVar[type[nn.Module]]

    slot: Slot
    scope: Scope
    source_class: type[nn.Module]
    has_bias: bool

    def generated(self) -> tuple[Tensor, Tensor | None]:
        """This layer's weight (B, \\*shape) and bias (B, out) for the images of the running forward.

        Raises:
            OutsideForwardError: no forward is running, or it has not reached the split yet.
        """
        weight, bias = self.scope.generate(self.slot)
        return weight, bias

    def extra_repr(self) -> str:
        """The layer's usual arguments, its level and the size N of its Weight Box."""
        usual = super().extra_repr()
        if self.has_bias:  # the plain class sees that the layer owns no bias, and says so
            usual = usual.replace(", bias=False", ", bias=True" if isinstance(self, nn.Linear) else "")
        return f"{usual}, level='{self.slot.level_name}', N={self.slot.box_size}"


class HyperLinear(HyperLayer, nn.Linear):
    """`nn.Linear` with weights generated for each image."""

    replaces = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        """Map (k·B, \\*, in_features) to (k·B, \\*, out_features); image b's rows meet image b's weights."""
        return hyper_linear(input, *self.generated())


class HyperConv1d(HyperLayer, nn.Conv1d):
    """`nn.Conv1d` with weights generated for each image."""

    replaces = nn.Conv1d

    def forward(self, input: Tensor) -> Tensor:
        """Map (k·B, C, L) to (k·B, out, L'); image b's rows meet image b's weights."""
        weight, bias = self.generated()
        input, padding = _pad(self, input)
        return hyper_conv1d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class HyperConv2d(HyperLayer, nn.Conv2d):
    """`nn.Conv2d` with weights generated for each image."""

    replaces = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        """Map (k·B, C, H, W) to (k·B, out, H', W'); image b's rows meet image b's weights."""
        weight, bias = self.generated()
        input, padding = _pad(self, input)
        return hyper_conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class HyperConvTranspose2d(HyperLayer, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` with weights generated for each image."""

    replaces = nn.ConvTranspose2d

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (k·B, C, H, W) to (k·B, out, H', W'); image b's rows meet image b's weights."""
        weight, bias = self.generated()
        if output_size is None:
            output_padding = self.output_padding
        else:
            sizes = (self.stride, self.padding, self.kernel_size, self.dilation)
            output_padding = _output_padding(input, output_size, *sizes)
        return hyper_conv_transpose2d(
            input,
            weight,
            bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            output_padding,  # type: ignore[arg-type]
            self.groups,
            self.dilation,
        )


HYPER_CLASSES: dict[type[nn.Module], type[HyperLayer]] = {
    cls.replaces: cls for cls in (HyperConv2d, HyperConvTranspose2d, HyperConv1d, HyperLinear)
}


def make_hyper(layer: nn.Module, slot: Slot, scope: Scope) -> None:
    """Turn a layer into a hyper layer, in place.

    The object stays, so that every reference to it, its settings, mode and hooks stay too; its class changes
    and its weights go.
    """
    has_bias, source_class = layer.bias is not None, type(layer)
    cls = layer_class(layer)
    assert cls is not None
    layer.__class__ = HYPER_CLASSES[cls]
    layer._parameters.update(dict.fromkeys(layer._parameters))
    layer.__dict__.update(slot=slot, scope=scope, source_class=source_class, has_bias=has_bias)


def make_ordinary(layer: HyperLayer, parameters: Mapping[str, nn.Parameter | None]) -> None:
    """Turn a hyper layer back into a layer of its original class that owns `parameters`, in place."""
    layer.__class__ = layer.source_class  # type: ignore[assignment]
    layer._parameters.update(parameters)
    for name in ("slot", "scope", "source_class", "has_bias"):
        del layer.__dict__[name]


def _pad(layer: nn.Conv1d | nn.Conv2d, input: Tensor) -> tuple[Tensor, Ints | str]:
    """Padding modes other than zeros are applied to the input, as the plain layers do."""
    if layer.padding_mode == "zeros":
        return input, layer.padding
    return F.pad(input, layer._reversed_padding_repeated_twice, mode=layer.padding_mode), 0


def _output_padding(
    input: Tensor, output_size: list[int], stride: Ints, padding: Ints, kernel_size: Ints, dilation: Ints
) -> Any:
    """What `nn.ConvTranspose2d` makes of its argument `output_size`; it does not look at the layer for that."""
    compute: Any = nn.ConvTranspose2d._output_padding
    return compute(None, input, output_size, stride, padding, kernel_size, 2, dilation)


def layer_class(layer: nn.Module) -> type[nn.Module] | None:
    """The plain class (`nn.Conv2d`, ...) that `layer` is an instance of, or None."""
    return next((cls for cls in HYPER_CLASSES if isinstance(layer, cls)), None)


def is_layer(module: nn.Module) -> bool:
    """Whether the module is of a class that can be converted, whatever else may speak against it."""
    return layer_class(module) is not None


def why_not(layer: nn.Module) -> str | None:
    """What in the layer itself speaks against converting it, or None.

    A layer is converted only where its call does exactly what its plain class does with its own weight.
    """
    cls = layer_class(layer)
    assert cls is not None
    if isinstance(layer, HyperLayer):
        return "already a hyper layer"
    overridden = [m for m in ("__call__", "forward", "_conv_forward") if getattr(type(layer), m, None) is not getattr(cls, m, None)]
    if overridden:
        return f"its class {type(layer).__name__} overrides {overridden[0]}"
    if "forward" in layer.__dict__:
        return "its forward was replaced on the instance"
    if layer._parameters.get("weight") is None or "bias" not in layer._parameters:
        return "its weight is parametrised (weight_norm, spectral_norm, parametrize, ...)"
    if set(layer._parameters) != {"weight", "bias"}:
        return "it owns parameters besides weight and bias"
    if nn.parameter.is_lazy(layer.weight) or nn.parameter.is_lazy(layer.bias):
        return "it is lazy and not initialised yet; run the model once first"
    return None


def settings(module: nn.Module) -> tuple[Any, ...]:
    """What modules must have in common to share a Weight Box: class, settings, shapes, dtype and device."""
    names = getattr(module, "__constants__", ()) if is_layer(module) else ()
    configured = tuple((name, str(module.__dict__.get(name))) for name in names)
    parameters = tuple(
        (name, None if p is None else (tuple(p.shape), p.dtype, str(p.device))) for name, p in module._parameters.items()
    )
    return type(module), configured, parameters
