"""Networks that the package spandrel recognises by their weights, and makes again from what they were recognised as.

A restorer of such a network records spandrel's name of the architecture, its class and the class's arguments. The class
must be one of spandrel's own: a folder from somebody else does not decide which code runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from hairify.errors import CheckpointError, NetworkError

_PACKAGES = ("spandrel", "spandrel_extra_arches")


@dataclass(frozen=True)
class _Call:
    """How spandrel calls a network; a function within another, which copies share and pickles find again.

    Attributes:
        function: (network, image) → image.
        made_from: arguments of `network`, which makes one that is called so.
    """

    function: Callable[[Any, Tensor], Tensor]
    made_from: Mapping[str, Any]

    def __deepcopy__(self, memo: object) -> _Call:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _call_again, (dict(self.made_from),)


def _call_again(made_from: Mapping[str, Any]) -> _Call:
    return cast(Recognised, network(**made_from)).call


class Recognised(nn.Module):
    """A network that spandrel calls in a way of its own, as by adding a noise map or taking one of several outputs.

    Attributes:
        network: as its authors have it.
        call: how an image is put through it.
    """

    def __init__(self, network: nn.Module, call: _Call) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W) in [0, 1] to the same shape and range."""
        return self.call.function(self.network, image)


def recognised(weights: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a checkpoint, with its weights, and the options by which `network` makes one like it.

    Args:
        weights: .pth, .ckpt, .pt or .safetensors, as spandrel reads them; nothing in it is run.

    Raises:
        ModuleNotFoundError: spandrel is not installed.
        CheckpointError: it cannot be read, or spandrel does not know what it is of.
        NetworkError: the network does not map RGB images to RGB images of the same size.
    """
    _register_extra()
    from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError

    if not weights.is_file():
        raise CheckpointError(f"There is no file {weights}.")
    try:
        found = ModelLoader("cpu").load_from_file(weights)
    except UnsupportedModelError as error:
        raise CheckpointError(
            f"{weights} is of no network that spandrel recognises. With the code of its network, "
            "network='package.module:factory' takes it; some networks need the package spandrel_extra_arches."
        ) from error
    except Exception as error:  # whatever readers and unpicklers stumble over
        raise CheckpointError(f"{weights} cannot be read by spandrel: {type(error).__name__}: {error}") from error
    kind = found.architecture.name
    if not isinstance(found, ImageModelDescriptor):
        raise NetworkError(f"{weights} is a {kind}, which takes a mask, too; what restores takes the image alone.")
    if found.scale != 1 or not found.input_channels == found.output_channels == 3:
        raise NetworkError(
            f"{weights} is a {kind} that maps {found.input_channels} channels to {found.output_channels}, at "
            f"{found.scale} times the size; what restores maps RGB images to RGB images of the same size."
        )
    made_from = {"architecture": str(found.architecture.id), **_made_with(found.model)}
    return _as_called(found, made_from), made_from


def network(*, architecture: str, code: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A network as `recognised` found one, with fresh weights.

    Args:
        architecture: spandrel's name of it.
        code: "package.module:class", one of spandrel's.
        arguments: of the class, where they are not its defaults.

    Raises:
        ModuleNotFoundError: spandrel is not installed.
        NetworkError: this spandrel has no such network.
    """
    _register_extra()
    module, _, name = code.partition(":")
    if module.partition(".")[0] not in _PACKAGES:
        raise NetworkError(f"The code of this {architecture} is {code!r}; accepted are classes of spandrel.")
    from spandrel import MAIN_REGISTRY

    try:
        cls = getattr(importlib.import_module(module), name)
        if not (isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == module):
            raise NetworkError(f"The code of this {architecture} is {code!r}, which is no network of spandrel's own.")
        made = cls(**arguments)
    except (ImportError, AttributeError, TypeError) as error:
        import spandrel

        raise NetworkError(
            f"spandrel {spandrel.__version__} cannot make this {architecture} again: {error}. Install the version with "
            f"which it was recognised{', and spandrel_extra_arches' if module.startswith(_PACKAGES[1]) else ''}."
        ) from error
    described = MAIN_REGISTRY[architecture].architecture.load(dict(made.state_dict()))
    return _as_called(described, {"architecture": architecture, "code": code, "arguments": arguments})


def original(model: nn.Module) -> nn.Module:
    """The network as its authors have it."""
    return model.network if isinstance(model, Recognised) else model


def _as_called(found: Any, made_from: Mapping[str, Any]) -> nn.Module:
    model: nn.Module = found.model
    call = found._call_fn  # what a description's own call does is for inference alone
    if call.__module__.startswith("spandrel.__helpers"):  # the usual way: with an image, and nothing else
        return model
    return Recognised(model, _Call(call, made_from))


def _made_with(model: nn.Module) -> dict[str, Any]:
    cls = type(model)
    given = cast(Mapping[str, Any], model.hyperparameters)  # spandrel keeps them, with all defaults
    usual = {name: one.default for name, one in inspect.signature(cls.__init__).parameters.items()}
    unusual = {name: value for name, value in given.items() if name not in usual or value != usual[name]}
    return {"code": f"{cls.__module__}:{cls.__qualname__}", "arguments": json.loads(json.dumps(unusual))}


def _register_extra() -> None:
    """Let spandrel know the networks of spandrel_extra_arches, where that is installed.

    Raises:
        NetworkError: spandrel cannot be imported.
        ModuleNotFoundError: spandrel is not installed.
    """
    try:
        importlib.import_module("spandrel")
    except RuntimeError as error:  # of torchvision, which it imports
        raise NetworkError(
            f"spandrel cannot be imported: {error}. Where its torchvision was built for another PyTorch, install "
            "that which goes with yours."
        ) from error
    if importlib.util.find_spec(_PACKAGES[1]) is not None:
        importlib.import_module(_PACKAGES[1]).install(ignore_duplicates=True)
