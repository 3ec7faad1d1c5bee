"""Networks by name, built, converted and run on images: what commands need, whatever the network.

What brings PyTorch is imported where it is used: the help of the command line reads the settings, and is quick.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from typing_extensions import Doc

from hairify.errors import CheckpointError, HairError, HairWarning, NetworkError, OptionError
from hairify.planning._choices import BoxKind, Init, PresetName, Targets

if TYPE_CHECKING:
    from torch import nn

BUILT_IN: Mapping[str, Mapping[str, Any]] = {
    "restormer": {},
    "res_hair": {},
    "promptir": {"exclude": ("up4_3", "up3_2")},
    "airnet": {"split_at": "R.body.2", "include": ("R.body.3", "R.body.4")},
    "transweather": {"split_at": "Tenc", "exclude": ("convtail", "clean")},
    "unet": {},
}
"""The networks of `hairify.models`, and how they are converted where nothing else is said (docs/networks.md)."""

SPANDREL = "spandrel"
"""The name of networks that the package spandrel recognises by their weights."""


@dataclass(frozen=True)
class Network:
    """A network by name.

    Attributes:
        name: one of `BUILT_IN`, "spandrel" for a network that the package of this name recognised, or
            "package.module:factory" for whatever `factory(**options)` returns.
        options: keyword arguments of the factory.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_built_in(self) -> bool:
        """Whether it is made by no code but that of hairify and of packages that hairify knows."""
        return self.name in BUILT_IN or self.name == SPANDREL

    def unconverted(self) -> Network:
        """The network that was converted: of `res_hair` its Restormer."""
        if self.name != "res_hair":
            return self
        options = {name: value for name, value in self.options.items() if name not in ("box_size", "init")}
        return Network("restormer", options | {"hair_neck": True})

    def build(self) -> nn.Module:
        """The network, with fresh weights. `res_hair` is a HairModel already.

        Raises:
            NetworkError: there is no such factory, or it does not return a module with these options.
        """
        from torch import nn

        factory = self._factory()
        try:
            network = factory(**self.options)
        except (HairError, ModuleNotFoundError):
            raise
        except Exception as error:
            raise NetworkError(
                f"The network {self.name!r} could not be built with the options {dict(self.options)}: "
                f"{type(error).__name__}: {error}. It takes {_signature(factory)}."
            ) from error
        if not isinstance(network, nn.Module):
            raise NetworkError(
                f"{self.name!r} returned a {type(network).__name__}; needed is a class or function that returns an "
                "nn.Module."
            )
        return network

    def _factory(self) -> Callable[..., Any]:
        if self.name == SPANDREL:
            from hairify.networks import _spandrel

            return _spandrel.network
        if self.name in BUILT_IN:
            import hairify.models as models

            return getattr(models, self.name)
        return find_object(self.name)


def find_object(name: str) -> Callable[..., Any]:
    """What "package.module:attribute" names.

    Raises:
        NetworkError: the name has another form, or the module or the attribute does not exist.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise NetworkError(
            f"There is no network {name!r}.{hint} Accepted are {', '.join(BUILT_IN)}, {SPANDREL}, and "
            "'package.module:factory' for your own."
        )
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise NetworkError(
            f"{name!r} cannot be found: {error}. The module must be importable from here: installed, or in the "
            "current folder."
        ) from error
    if not callable(found):
        raise NetworkError(f"{name!r} is a {type(found).__name__}; needed is a class or function that makes a module.")
    return found


@dataclass(frozen=True)
class NetworkSettings:
    """Which network, and how it is converted. Where nothing is said, `hairify` decides, see `hairify.hairify`."""

    network: Annotated[
        str,
        Doc(
            "restormer, res_hair, promptir, airnet, transweather, unet; spandrel, for what it recognises in --weights; "
            "or package.module:factory for your own"
        ),
    ] = "restormer"
    options: Annotated[Mapping[str, Any], Doc("keyword argument of the network's factory")] = field(
        default_factory=dict
    )
    weights: Annotated[
        Path | None, Doc("trained checkpoint of the base network (.pth, .ckpt, .safetensors) to start from")
    ] = None
    convert: Annotated[bool, Doc("convert the network by HAIR; without, it is trained as it is")] = True
    preset: Annotated[
        PresetName, Doc("what is not said below: hairify's own form, or the paper's (full boxes, its classifier)")
    ] = "default"
    split_at: Annotated[str | None, Doc("module whose output feeds the DAC, or a fraction of the layer calls")] = None
    box_size: Annotated[int | None, Doc("weight sets N in each box; by default as the preset has it")] = None
    box: Annotated[BoxKind | None, Doc("rows as published, or rows that differ by low-rank matrices")] = None
    rank: Annotated[int | None, Doc("of these matrices; 8 by default")] = None
    targets: Annotated[
        Targets | None,
        Doc("convert repeated blocks and every other layer, blocks alone, every layer by itself, or what fits"),
    ] = None
    include: Annotated[tuple[str, ...], Doc("globs of the modules that are converted")] = ()
    exclude: Annotated[tuple[str, ...], Doc("globs of the modules that are not")] = ()
    dac: Annotated[
        str | None, Doc("moments, published, or your own: package.module:factory, (in_channels, giv_dim) -> module")
    ] = None
    giv_dim: Annotated[int | None, Doc("D, the length of the GIV; 64 by default, less for small networks")] = None
    init: Annotated[Init, Doc("keep the trained function, or draw fresh weights")] = "preserve"

    def __post_init__(self) -> None:
        if not self.convert and self.network == "res_hair":
            raise OptionError(
                "`convert` is off, but res_hair is a converted network. Its static form is restormer with the option "
                "hair_neck=true."
            )
        if self.network == "res_hair":
            self._refuse_to_convert_again()
        if self.network == SPANDREL and bool(self.options) == bool(self.weights):
            got = "options and weights" if self.options else "no weights"
            raise OptionError(
                f"`network` is spandrel, with {got}. It tells networks and their options by weights: give a checkpoint "
                "alone, `weights`."
            )

    def _refuse_to_convert_again(self) -> None:
        """Refuse options of a conversion.

        Raises:
            OptionError: there are such.
        """
        from hairify.planning._options import DEFAULTS

        said = [one.name for one in fields(self) if one.name in DEFAULTS and getattr(self, one.name) != one.default]
        if said:
            raise OptionError(
                f"`{said[0]}` is {getattr(self, said[0])!r}, but res_hair is converted already, as published. To "
                "convert otherwise, give restormer, with the option hair_neck=true for the same base."
            )

    @property
    def own_dac(self) -> str | None:
        """Name of a DAC that is not hairify's, as "package.module:factory"."""
        from hairify.nn._dac import DACName

        return None if self.dac in get_args(DACName) else self.dac

    def named(self) -> Network:
        """The network by name; of "spandrel", with what it recognises in the weights.

        Raises:
            CheckpointError: spandrel does not recognise them.
            NetworkError: they are of a network that does not restore images.
        """
        if self.network == SPANDREL and not self.options:
            return Network(SPANDREL, self._recognised()[1])
        return Network(self.network, self.options)

    def _recognised(self) -> tuple[nn.Module, dict[str, Any]]:
        from hairify.networks._spandrel import recognised

        assert self.weights is not None
        return recognised(self.weights)

    def plan_options(self, network: nn.Module, *, any_split: bool = False) -> dict[str, Any]:
        """Keyword arguments of `hairify.plan` and `hairify.hairify`: what is set here, else what suits the network.

        Args:
            network: that is to be converted. Its modules may have names like "0.5", which go before fractions.
            any_split: leave out what suits only the network's usual split.
        """
        from hairify.networks._sizes import unusual_example

        options: dict[str, Any] = {
            **{name: getattr(self, name) for name in ("preset", "box", "rank", "targets", "giv_dim", "init")},
            **BUILT_IN.get(self.network, {}),
        }
        if any_split or self.split_at is not None:
            options.pop("split_at", None)
            options.pop("include", None)
        if self.split_at is not None and not any_split:
            names = {name for name, _ in network.named_modules(remove_duplicate=False)}
            options["split_at"] = self.split_at if self.split_at in names else number_or_name(self.split_at)
        if self.box_size is not None:
            options["box_size"] = self.box_size
        if self.include:
            options["include"] = self.include
        if self.exclude:
            options["exclude"] = self.exclude
        if (images := unusual_example(network)) is not None:
            options["example_inputs"] = images
        if self.dac is not None:
            options["dac"] = self.dac if self.own_dac is None else find_object(self.own_dac)
        return options

    def build(self, seed: int) -> nn.Module:
        """The network that is to be converted, with the weights of `weights` or fresh ones that follow the seed.

        `res_hair` is a HairModel already.

        Raises:
            NetworkError: the network cannot be built.
            CheckpointError: `weights` cannot be read or does not fit.
        """
        import torch

        from hairify._support.randomness import seeded
        from hairify.model import HairModel
        from hairify.models import load_published, load_weights

        if self.network == SPANDREL and self.weights is not None:
            return self._recognised()[0]
        with seeded(torch.Generator().manual_seed(seed)):
            network = self.named().build()
        if self.weights is None:
            return network
        if not isinstance(network, HairModel):
            load_weights(network, self.weights)
            return network
        try:
            network.load_state_dict(load_published(self.weights).state_dict())
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.weights} is a Res-HAIR of another size than the options {dict(self.options)} make: {error}"
            ) from error
        return network

    def restorer(self, seed: int) -> nn.Module:
        """The network to train: a HairModel, or with `convert` off the network as it is.

        Raises:
            HairError: the network cannot be built or converted.
        """
        return self.converted(self.build(seed), seed)

    def converted(self, network: nn.Module, seed: int) -> nn.Module:
        """A network, converted in place, unless it is already or `convert` is off.

        Args:
            network: as `build` makes it, trained or not.
            seed: of what is drawn.

        Raises:
            HairError: it cannot be converted.
        """
        import torch

        from hairify.conversion import hairify as convert
        from hairify.model import HairModel

        if not self.convert or isinstance(network, HairModel):
            return network
        generator = torch.Generator().manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HairWarning)  # it stands in the plan, too
            return convert(network, inplace=True, generator=generator, **self.plan_options(network))


def _signature(factory: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(factory))
    except (TypeError, ValueError):  # of what is written in C
        return "(...)"


def number_or_name(text: str) -> float | str:
    """A fraction where the text is a number; else a name."""
    try:
        return float(text)
    except ValueError:
        return text
