"""A hyper layer computes what one plain layer per image computes, and is otherwise the layer that it was."""

from __future__ import annotations

import contextlib
import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from util import published

from hairify.errors import OutsideForwardError
from hairify.nn import Feature, HyperLayer, HyperSelectingNet, WeightBox
from hairify.nn._context import ForwardContext, Hypernetwork, WeightAddress
from hairify.nn._layers import is_layer, make_hyper, make_ordinary, settings, why_not

BOX_SIZE = 3
CONV2D: list[dict[str, Any]] = [
    {"kernel_size": 3},
    *[{"kernel_size": 1, **more} for more in ({}, {"bias": False}, {"groups": 2}, {"stride": 2}, {"padding": 1})],
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 1)},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 3, "padding": "valid", "dilation": (1, 2)},
    *[{"kernel_size": 3, "padding": 2, "groups": groups, "dilation": (2, 1)} for groups in (2, 4)],
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": (2, 1), "padding_mode": "replicate", "stride": 2},
    {"kernel_size": 3, "padding": (1, 2), "padding_mode": "circular", "groups": 2},
    {"kernel_size": (1, 4), "padding": "same", "padding_mode": "circular"},
    {"kernel_size": 3, "padding": "same", "padding_mode": "reflect", "dilation": 2, "bias": False},
    {"kernel_size": 1, "padding": 1, "padding_mode": "replicate"},
]
CONV1D: list[dict[str, Any]] = [
    *[{"kernel_size": 3}, {"kernel_size": 1}],
    {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 2, "bias": False},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 2, "padding": 2, "padding_mode": "circular", "dilation": 2},
    {"kernel_size": 3, "padding": "same", "padding_mode": "reflect"},
]
TRANSPOSED: list[dict[str, Any]] = [
    *[{"kernel_size": 2, "stride": 2}, {"kernel_size": 1}],
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": (3, 2), "stride": (2, 3), "output_padding": (0, 2), "groups": 2, "bias": False},
    {"kernel_size": 3, "dilation": (2, 1), "padding": 1},
    {"kernel_size": 3, "stride": 2, "dilation": 3, "output_padding": 2, "groups": 4},
]
LAYERS: list[tuple[type[nn.Module], tuple[int, ...], dict[str, Any]]] = [
    *[(nn.Conv2d, (4, 6, 7), options) for options in CONV2D],
    *[(nn.Conv1d, (4, 9), options) for options in CONV1D],
    *[(nn.ConvTranspose2d, (4, 3, 4), options) for options in TRANSPOSED],
    *[(nn.Linear, (*inside, 4), {"bias": bias}) for inside in ((), (5,), (2, 3)) for bias in (True, False)],
]
every_layer = pytest.mark.parametrize(("cls", "shape", "options"), LAYERS, ids=lambda v: getattr(v, "__name__", str(v)))


class Mean(nn.Module):
    def forward(self, feature: Tensor) -> Tensor:
        return feature.mean((2, 3))


class Setting:
    """A layer turned into a hyper layer, and what is needed to run it."""

    def __init__(self, layer: nn.Module, batch: int = 1) -> None:
        self.layer, self.plain = layer, copy.deepcopy(layer)
        rows = {n: torch.randn(BOX_SIZE, *p.shape, dtype=p.dtype) for n, p in layer.named_parameters()}
        self.box = WeightBox({"": {name: nn.Parameter(row) for name, row in rows.items()}})
        self.hypernetwork = Hypernetwork(
            Mean(),
            nn.Identity(),
            nn.ModuleList([HyperSelectingNet(3, 2, BOX_SIZE, (4,)).double()]),
            nn.ModuleList([self.box]),
        )
        self.context = make_context()
        self.feature = torch.randn(batch, 3, 2, 2, dtype=torch.float64)
        make_it_hyper(layer, self.context, block=1)

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        with self.context.forward(self.hypernetwork, None):
            self.context.on_split(nn.Identity(), (), self.feature)
            yield

    def one_by_one(self, x: Tensor, *args: Any) -> Tensor:
        """The oracle: a plain layer for each image, its weights summed up row by row."""
        selecting = self.hypernetwork.hsn[0](self.feature.mean((2, 3)))[:, 1]
        images = zip(selecting, x.tensor_split(len(selecting)), strict=True)
        return torch.cat([self.plain_with(v)(image, *args) for v, image in images])

    def plain_with(self, v: Tensor) -> nn.Module:
        plain = copy.deepcopy(self.plain)
        plain.load_state_dict({n: sum(v[i] * w[i] for i in range(BOX_SIZE)) for n, w in self.box.named_parameters()})
        return plain


def make(cls: type[nn.Module], options: dict[str, Any]) -> nn.Module:
    return cls(4, 8, **options).double()


def make_context() -> ForwardContext:
    return ForwardContext("the_split", Feature(0, "map", (3, 2, 2)))


def make_it_hyper(layer: nn.Module, context: ForwardContext, block: int = 0) -> None:
    bias = layer.bias is not None
    make_hyper(layer, WeightAddress(context, 0, block, "", bias=bias, level_name="the_level", box_size=BOX_SIZE))


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def assert_close(result: Tensor, expected: Tensor) -> None:
    assert result.shape == expected.shape
    error, scale = (float(t.detach().abs().max()) for t in (result - expected, expected))
    assert error <= 1e-12 * scale, f"off by {error}"


@every_layer
@pytest.mark.parametrize(("batch", "per_image"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_computes_what_plain_layers_compute(
    cls: type[nn.Module], shape: tuple[int, ...], options: dict[str, Any], batch: int, per_image: int
) -> None:
    setting, x = Setting(make(cls, options), batch), randn(batch * per_image, *shape)
    with setting.forward():
        result = setting.layer(x)
    assert_close(result, setting.one_by_one(x))


@pytest.mark.parametrize("extra", [(0, 0), (1, 0), (1, 2)])
@pytest.mark.parametrize("dimensions", [2, 4])
def test_output_size(extra: tuple[int, int], dimensions: int) -> None:
    options = {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 0), "output_padding": (0, 1), "groups": 2}
    setting, x = Setting(make(nn.ConvTranspose2d, options), 2), randn(4, 4, 3, 5)
    size = [4, 8, 5 + extra[0], 14 + extra[1]][-dimensions:]  # (n - 1) · stride - 2 · padding + kernel + extra
    with setting.forward():
        results = [setting.layer(x, size), setting.layer(x, output_size=torch.Size(size))]
        with pytest.raises(ValueError, match="requested an output size of"):
            setting.layer(x, [n + 3 for n in size])
    expected = setting.one_by_one(x, size)
    assert list(expected.shape[2:]) == size[-2:]
    for result in results:
        assert_close(result, expected)


@every_layer
def test_repr(cls: type[nn.Module], shape: tuple[int, ...], options: dict[str, Any]) -> None:
    setting = Setting(make(cls, options))
    assert repr(setting.layer) == f"Hyper{repr(setting.plain)[:-1]}, level='the_level', N={BOX_SIZE})"


class Described(nn.Conv2d):
    def describe(self) -> str:
        return f"{self.in_channels} channels"


def note(module: nn.Module, args: Any, output: Any = None) -> None:
    module.notes = [*getattr(module, "notes", []), "after" if output is not None else "before"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make_layer", [nn.Conv2d, Described, nn.ConvTranspose2d, nn.Conv1d, nn.Linear])
def test_make_ordinary_undoes_make_hyper(make_layer: Callable[..., nn.Module], bias: bool, training: bool) -> None:
    layer = (make_layer(4, 8, bias=bias) if make_layer is nn.Linear else make_layer(4, 8, 3, bias=bias)).train(training)
    layer.register_forward_hook(note)
    layer.register_forward_pre_hook(note)
    layer.tag, layer.inner, cls = "mine", nn.Identity(), type(layer)
    attributes, parameters = {**layer.__dict__}, {**layer._parameters}
    assert why_not(layer) is None
    layer_settings, hooks = settings(layer), (*layer._forward_hooks.items(), *layer._forward_pre_hooks.items())

    make_it_hyper(layer, make_context())
    assert isinstance(layer, cls)
    assert (is_layer(layer), why_not(layer)) == (True, "already a hyper layer")
    assert not [*layer.parameters()]
    assert not layer.state_dict()
    assert layer.training == training
    assert (*layer._forward_hooks.items(), *layer._forward_pre_hooks.items()) == hooks
    assert all(layer.__dict__[name] is value for name, value in attributes.items())

    make_ordinary(layer, parameters)
    assert type(layer) is cls
    assert [*layer.__dict__] == [*attributes]
    assert all(layer.__dict__[name] is value for name, value in attributes.items())
    assert [*layer._parameters] == [*parameters]
    assert all(layer._parameters[name] is value for name, value in parameters.items())
    assert settings(layer) == layer_settings
    layer(torch.rand(2, 4, *[4] * len(getattr(layer, "kernel_size", ()))))
    assert layer.notes == ["before", "after"]


def test_a_subclass_keeps_its_class_and_methods() -> None:
    made = Described(4, 8, 3)
    make_it_hyper(made, make_context())
    for layer in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert isinstance(layer, Described)
        assert layer.describe() == "4 channels"
        assert repr(layer).startswith("HyperDescribed(4, 8, kernel_size=(3, 3), stride=(1, 1), level='the_level'")


def test_hooks_run() -> None:
    layer = make(nn.Linear, {})
    layer.register_forward_hook(lambda module, args, output: 2 * output)
    setting, x = Setting(layer), randn(1, 4)
    setting.plain._forward_hooks.clear()
    with setting.forward():
        assert_close(setting.layer(x), 2 * setting.one_by_one(x))


@pytest.mark.parametrize("cls", [nn.Conv2d, nn.ConvTranspose2d, nn.Conv1d, nn.Linear])
def test_outside_a_forward(cls: type[nn.Module]) -> None:
    setting = Setting(make(cls, {} if cls is nn.Linear else {"kernel_size": 1}))
    x = randn(1, 4, *{nn.Linear: (), nn.Conv1d: (3,)}.get(cls, (3, 3)))
    refusals: list[str] = []

    def refused(match: str) -> None:
        with pytest.raises(OutsideForwardError, match="'the_level'") as error:
            setting.layer(x)
        assert match in str(error.value)
        refusals.append(match)

    refused("outside its HairModel's forward")
    with setting.context.forward(setting.hypernetwork, None):
        refused("before the split 'the_split'")
    with setting.forward():
        setting.layer(x)
        thread = threading.Thread(target=refused, args=("outside its HairModel's forward",))
        thread.start()
        thread.join()
    assert len(refusals) == 3
    refused("outside its HairModel's forward")
    with contextlib.suppress(KeyError), setting.forward():
        raise KeyError
    refused("outside its HairModel's forward")


def overriding(method: str, cls: type[nn.Module]) -> type[nn.Module]:
    return type("Own", (cls,), {method: lambda self, *args: 2 * getattr(super(type(self), self), method)(*args)})


def changed(layer: nn.Module, **attributes: Any) -> nn.Module:
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


PARAMETRISED = "its weight is parametrised"
REASONS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "forward": (lambda: overriding("forward", nn.Conv1d)(2, 2, 1), "its class Own overrides forward"),
    "_conv_forward": (lambda: overriding("_conv_forward", nn.Conv2d)(2, 2, 1), "its class Own overrides _conv_forward"),
    "__call__": (lambda: overriding("__call__", nn.Linear)(2, 2), "its class Own overrides __call__"),
    "instance": (lambda: changed(nn.Linear(2, 2), forward=abs), "its forward was replaced on the instance"),
    "weight_norm, old": (lambda: weight_norm(nn.Conv2d(2, 2, 1)), PARAMETRISED),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Conv2d(2, 2, 1)), PARAMETRISED),
    "weight_norm of the bias": (lambda: parametrizations.weight_norm(nn.Linear(2, 2), "bias", dim=None), PARAMETRISED),
    "spectral_norm, old": (lambda: spectral_norm(nn.Linear(2, 2)), PARAMETRISED),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Linear(2, 2)), PARAMETRISED),
    "pruned": (lambda: prune.random_unstructured(nn.Conv1d(2, 2, 1), "weight", 0.5), PARAMETRISED),
    "lazy": (lambda: nn.LazyConv2d(2, 1), "it is lazy and not initialised yet"),
    "lazy, no bias": (lambda: nn.LazyLinear(2, bias=False), "it is lazy and not initialised yet"),
    "extra": (lambda: changed(nn.Linear(2, 2), gain=nn.Parameter(torch.ones(1))), "it owns parameters besides"),
}


@pytest.mark.parametrize(("make_layer", "reason"), REASONS.values(), ids=REASONS)
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_why_not(make_layer: Callable[[], nn.Module], reason: str) -> None:
    assert str(why_not(make_layer())).startswith(reason)


@pytest.mark.parametrize("method", ["_conv_forward", "_output_padding"])
def test_why_not_sees_methods_replaced_on_the_instance(method: str) -> None:
    cls = nn.Conv2d if method == "_conv_forward" else nn.ConvTranspose2d
    assert why_not(changed(cls(2, 2, 1), **{method: abs})) == f"its {method} was replaced on the instance"


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(8, 4, 3), nn.ConvTranspose2d(8, 4, 3, stride=2, bias=False), nn.Linear(12, 4)]
)
def test_in_a_converted_network(layer: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), layer).double()
    x = randn(2, 3, 8, 12)
    hair = published(network, split_at="0", targets="layers", example_inputs=x)
    assert isinstance(hair.base[2], HyperLayer)
    assert_close(hair(x), network(x))
    for parameter in hair.hair_parameters():
        nn.init.normal_(parameter, std=0.3)
    plain, parts = copy.deepcopy(layer), []
    for v, image in zip(hair.selecting_vectors(x)["2"], x, strict=True):
        plain.load_state_dict({n: sum(v[i] * row[i] for i in range(2)) for n, row in hair.boxes[0].named_parameters()})
        parts.append(plain(network[:2](image[None])))
    assert (parts[0] - parts[1]).abs().max() > 1e-3
    assert_close(hair(x), torch.cat(parts))
