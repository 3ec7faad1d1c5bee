"""Hyper layers: layers that own no weight and compute with the weights generated for each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from hairify._support.torch_internals import (
    amounts_of_padding,
    inner_method,
    output_padding_for,
    own_parameters,
    tree_leaves,
)
from hairify.errors import NoWeightError
from hairify.functional._operations import Ints, Prepare, convolution, linear, transposed_convolution
from hairify.functional._per_image import hyper_conv1d, hyper_conv2d, hyper_conv_transpose2d, hyper_linear
from hairify.nn._boxes import BlockWeights
from hairify.nn._context import WeightAddress

# In `HairModel.graph()` each is one named node: they branch on shapes, which torch.fx cannot follow.
for _name in ("hyper_conv1d", "hyper_conv2d", "hyper_conv_transpose2d", "hyper_linear", "output_padding_for"):
    torch.fx.wrap(_name)


class _NoWeight:
    """Stands where a hyper layer has no weight; whatever is done to it says why, but to look whether it is there."""

    def __init__(self, layer: HyperLayer) -> None:
        self.__dict__["error"] = _no_weight(layer, "weight")

    def __getattr__(self, name: str) -> Any:
        raise self.__dict__["error"]

    def __setattr__(self, name: str, value: Any) -> None:
        raise self.__dict__["error"]

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "None"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise next(v for v in tree_leaves((args, kwargs)) if isinstance(v, cls)).__dict__["error"]


def _refuse(stand_in: _NoWeight, *args: Any) -> Any:
    raise stand_in.__dict__["error"]


# Python looks for these on the class alone: arithmetic, sizes, parts, and copies.
for _name in (
    *(f"__{side}{name}__" for name in ("add", "sub", "mul", "truediv", "matmul", "pow") for side in ("", "r", "i")),
    *(f"__{name}__" for name in ("neg", "abs", "len", "iter", "getitem", "setitem", "float", "array", "reduce_ex")),
):
    setattr(_NoWeight, _name, _refuse)


def _no_weight(layer: HyperLayer, name: str) -> NoWeightError:
    return NoWeightError(
        f"A {type(layer).__name__} of level '{layer.hair_address.level_name}' owns no {name}: it is made for each "
        "image from the rows of the level's Weight Box. Initialise, prune, fuse or parametrise layers before "
        "`hairify`, or of the network that `hair.bake(x)` makes; leave a layer as it is by `exclude`; "
        "`hair.boxes` holds the rows."
    )


class HyperLayer(nn.Module):
    """What all hyper layers share; mixed in before the layer class that they replace.

    Attributes:
        hair_plain: the class of `torch.nn` whose computation it does.
        hair_source: the class of the layer that it replaces: `hair_plain`, or a user's subclass of it.
        hair_address: where its weights come from; the only instance attribute that the replaced layer did not have.
        weight: none of its own; whatever would use it raises `NoWeightError`.
    """

    hair_plain: ClassVar[type[nn.Module]]
    hair_source: ClassVar[type[nn.Module]]
    hair_address: WeightAddress
    weight: Any

    def register_parameter(self, name: str, param: Any) -> None:
        """As any module's, but of a weight or bias: the layer would not compute with it.

        Raises:
            NoWeightError: it is one, or stands for one, as where `torch.nn.utils.prune` gives it another name.
        """
        if param is not None and (name in ("weight", "bias") or isinstance(param, _NoWeight)):
            raise _no_weight(self, name)
        super().register_parameter(name, param)

    def extra_repr(self) -> str:
        """The layer's usual arguments, its level and the size N of its Weight Box."""
        usual = super().extra_repr()
        if self.hair_address.bias:  # the plain class sees that the layer owns no bias, and says so
            usual = usual.replace(", bias=False", ", bias=True" if isinstance(self, nn.Linear) else "")
        return f"{usual}, level='{self.hair_address.level_name}', N={self.hair_address.box_size}"


HyperLayer.weight = property(_NoWeight)


def weights_of(layer: HyperLayer) -> BlockWeights:
    """What a hyper layer's block computes with in the running forward.

    Raises:
        OutsideForwardError: no forward is running, or it has not reached the split yet.
    """
    address = layer.hair_address
    return address.slot.current() or address.context.weights_of(address)


def _compute(
    layer: HyperLayer,
    plain: Callable[..., Tensor],
    op: Callable[..., Tensor],
    prepare: Prepare,
    input: Tensor,
    **settings: Any,
) -> Tensor:
    """Apply an operation with the weights for the images of the running forward.

    It is `plain` where all images have the same weight, as in an ordinary layer; else that of the name `op`, which
    `prepare` prepares.
    """
    weights, name = weights_of(layer), layer.hair_address.layer_name
    if (same := weights.for_all(name)) is not None:
        return plain(input, *same, **settings)
    if isinstance(input, torch.fx.Proxy):  # in `HairModel.graph()` weights and operation are nodes of their own
        weight, bias = weights.of(name)
        return op(input, weight, bias, **settings)
    return weights.compute(name, prepare, input, settings)


class HyperLinear(HyperLayer, nn.Linear):
    """`nn.Linear` with weights generated for each image."""

    hair_plain = hair_source = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        """Map (k·B, *, in_features) to (k·B, *, out_features); image b's rows meet image b's weights."""
        return _compute(self, F.linear, hyper_linear, linear, input)


class HyperConv1d(HyperLayer, nn.Conv1d):
    """`nn.Conv1d` with weights generated for each image."""

    hair_plain = hair_source = nn.Conv1d

    def forward(self, input: Tensor) -> Tensor:
        """Map (k·B, C, L) to (k·B, out, L'); image b's rows meet image b's weights."""
        return _convolve(self, F.conv1d, hyper_conv1d, input)


class HyperConv2d(HyperLayer, nn.Conv2d):
    """`nn.Conv2d` with weights generated for each image."""

    hair_plain = hair_source = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        """Map (k·B, C, H, W) to (k·B, out, H', W'); image b's rows meet image b's weights."""
        return _convolve(self, F.conv2d, hyper_conv2d, input)


def _convolve(
    layer: HyperConv1d | HyperConv2d, plain: Callable[..., Tensor], op: Callable[..., Tensor], input: Tensor
) -> Tensor:
    input, padding = _pad(layer, input)
    return _compute(
        layer,
        plain,
        op,
        convolution,
        input,
        stride=layer.stride,
        padding=padding,
        dilation=layer.dilation,
        groups=layer.groups,
    )


class HyperConvTranspose2d(HyperLayer, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` with weights generated for each image."""

    hair_plain = hair_source = nn.ConvTranspose2d

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (k·B, C, H, W) to (k·B, out, H', W'); image b's rows meet image b's weights."""
        stride, kernel_size, dilation = self.stride, self.kernel_size, self.dilation
        padding: Any = self.padding  # never a string here
        output_padding: Any = self.output_padding
        if output_size is not None:
            output_padding = output_padding_for(input, output_size, stride, padding, kernel_size, dilation)
        return _compute(
            self,
            F.conv_transpose2d,
            hyper_conv_transpose2d,
            transposed_convolution,
            input,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            groups=self.groups,
            dilation=dilation,
        )


_CONVOLUTION = (
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
    "output_padding",
    "in_channels",
    "out_channels",
    "kernel_size",
)
_SETTINGS: Mapping[type[nn.Module], tuple[str, ...]] = {
    nn.Conv1d: _CONVOLUTION,
    nn.Conv2d: _CONVOLUTION,
    nn.ConvTranspose2d: _CONVOLUTION,
    nn.Linear: ("in_features", "out_features"),
}
"""Attributes that decide what a layer computes, beside its parameters."""

_HYPER_CLASSES: dict[type[nn.Module], type[HyperLayer]] = {
    cls.hair_plain: cls for cls in (HyperConv2d, HyperConvTranspose2d, HyperConv1d, HyperLinear)
}

# For users' subclasses of these, made when first met.
_HYPER_SUBCLASSES: dict[type[nn.Module], type[HyperLayer]] = {}


def hyper_class(source: type[nn.Module]) -> type[HyperLayer]:
    """The hyper layer for layers of class `source`, and a subclass of it.

    So a layer of a user's own class keeps its methods and its answer to `isinstance`.
    """
    plain = _plain_class(source)
    assert plain is not None
    cls = _HYPER_CLASSES[plain]
    if source is plain:
        return cls
    if source not in _HYPER_SUBCLASSES:
        members = {"hair_source": source, "__reduce__": _reduce}
        _HYPER_SUBCLASSES[source] = type(f"Hyper{source.__name__}", (cls, source), members)
    return _HYPER_SUBCLASSES[source]


def _reduce(layer: HyperLayer) -> tuple[Any, ...]:
    """Pickle and copy a layer whose class is not found by name."""
    return _blank, (type(layer).hair_source,), layer.__dict__


def _blank(source: type[nn.Module]) -> HyperLayer:
    cls = hyper_class(source)
    return cls.__new__(cls)


def make_hyper(layer: nn.Module, address: WeightAddress) -> None:
    """Turn a layer into a hyper layer, in place.

    The object stays, so that every reference to it, its settings, mode and hooks stay too; its class changes
    and its weights go.
    """
    layer.__class__ = hyper_class(type(layer))
    parameters = own_parameters(layer)
    parameters.update(dict.fromkeys(parameters))
    layer.__dict__["hair_address"] = address


def make_ordinary(layer: HyperLayer, parameters: Mapping[str, nn.Parameter | None]) -> None:
    """Turn a hyper layer back into a layer of its original class that owns `parameters`, in place."""
    layer.__class__ = type(layer).hair_source  # type: ignore[assignment]
    own_parameters(layer).update(parameters)
    del layer.__dict__["hair_address"]


def _pad(layer: nn.Conv1d | nn.Conv2d, input: Tensor) -> tuple[Tensor, Ints | str]:
    """Padding modes other than zeros are applied to the input, as the plain layers do."""
    if layer.padding_mode == "zeros":
        return input, layer.padding
    return F.pad(input, amounts_of_padding(layer), mode=layer.padding_mode), 0


def _plain_class(cls: type[nn.Module]) -> type[nn.Module] | None:
    return next((plain for plain in _HYPER_CLASSES if issubclass(cls, plain)), None)


def is_layer(module: nn.Module) -> bool:
    """Whether the module is of a class that can be converted, whatever else may speak against it."""
    return _plain_class(type(module)) is not None


def why_not(layer: nn.Module) -> str | None:
    """What in the layer itself speaks against converting it, or None.

    A layer is converted only where its call does exactly what its plain class does with its own weight.
    """
    cls, plain = type(layer), _plain_class(type(layer))
    if isinstance(layer, HyperLayer):
        return "already a hyper layer"
    assert plain is not None
    for method in filter(None, ("__call__", "forward", inner_method(plain))):
        if getattr(cls, method) is not getattr(plain, method):
            return f"its class {cls.__name__} overrides {method}"
        if method in layer.__dict__:
            return f"its {method} was replaced on the instance"
    parameters = own_parameters(layer)
    weight = parameters.get("weight")
    if weight is None or "bias" not in parameters:
        return "its weight is parametrised (weight_norm, spectral_norm, parametrize, ...)"
    if set(parameters) != {"weight", "bias"}:
        return "it owns parameters besides weight and bias"
    if not weight.is_floating_point():
        return "its weight holds no real numbers"
    try:
        hyper_class(cls)
    except Exception as error:  # __init_subclass__, a metaclass, __slots__: anything may speak against it
        return f"its class {cls.__name__} cannot be subclassed ({type(error).__name__}: {error})"
    if any(nn.parameter.is_lazy(parameter) for parameter in layer.parameters(recurse=False)):
        return "it is lazy and not initialised yet; run the model once first"
    return None


def settings(module: nn.Module) -> tuple[Any, ...]:
    """What modules must have in common to share a Weight Box: class, settings, shapes, dtype and device."""
    plain = _plain_class(type(module))
    configured = () if plain is None else tuple((name, str(vars(module).get(name))) for name in _SETTINGS[plain])
    parameters = tuple(
        (name, None if p is None else (tuple(p.shape), p.dtype, str(p.device)))
        for name, p in own_parameters(module).items()
    )
    return type(module), configured, parameters
