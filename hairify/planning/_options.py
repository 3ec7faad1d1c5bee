"""What a conversion is told: the options of `hairify` and `plan`, in one place."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, get_args

import torch
from torch import nn
from typing_extensions import TypedDict

from hairify._support.wrappers import without_wrappers
from hairify.errors import AlreadyConvertedError, OptionError
from hairify.nn._converted import Converted
from hairify.nn._dac import DACSource
from hairify.nn._layers import HyperLayer
from hairify.planning._choices import BoxKind, Init, PresetName, Targets
from hairify.planning._presets import DEFAULT_RANK, PRESETS, Preset

BoxSize: TypeAlias = int | Mapping[str, int] | None
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Options(TypedDict, total=False):
    """Keyword arguments of `hairify` and `plan`; `hairify` tells what each means."""

    preset: PresetName
    split_at: str | float | None
    example_inputs: Any
    box_size: BoxSize
    box: BoxKind | None
    rank: int | None
    targets: Targets | None
    include: Sequence[str]
    exclude: Sequence[str]
    dac: DACSource
    giv_dim: int | None
    init: Init
    generator: torch.Generator | None


DEFAULTS = Options(
    preset="default",
    split_at=None,
    example_inputs=None,
    box_size=None,
    box=None,
    rank=None,
    targets=None,
    include=("*",),
    exclude=(),
    dac=None,
    giv_dim=None,
    init="preserve",
    generator=None,
)


def showing_options(function: _Function) -> _Function:
    """Has `help`, notebooks and `inspect` show each option, where the code has `**options: Unpack[Options]`."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    written = {name: kind.__forward_arg__ for name, kind in Options.__annotations__.items()}
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=written[name])
        for name, value in DEFAULTS.items()
    ]
    function.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return function


def check_names(options: Options, further: Sequence[str] = ()) -> None:
    """Make sure that there are such options.

    Args:
        options: what a function was given by keyword.
        further: what it takes by keyword besides.

    Raises:
        OptionError: there is none of that name.
    """
    accepted = [*further, *DEFAULTS]
    for name in options:
        if name not in DEFAULTS:
            near = difflib.get_close_matches(name, accepted, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionError(f"There is no option {name!r}.{hint} Accepted are {', '.join(accepted)}.")


def given(options: Options) -> list[str]:
    """The options that are given and differ from what they are without."""
    usual: Mapping[str, Any] = DEFAULTS
    return [name for name, value in options.items() if not _alike(value, usual[name])]


def _alike(value: Any, usual: Any) -> bool:
    """Whether they are the same; arrays and tensors, which compare number by number, never are."""
    if isinstance(usual, tuple) and isinstance(value, (list, tuple)):
        return tuple(value) == usual
    return value is usual or (isinstance(usual, str) and isinstance(value, str) and value == usual)


@dataclass(frozen=True)
class Choices:
    """Options as they are carried out: checked, and what was not given decided by the preset.

    Attributes:
        preset: its name.
        rank: of low-rank boxes; None for full ones. All other options are named and explained at `hairify`.
    """

    preset: PresetName
    split_at: str | float | None
    example_inputs: Any
    box_size: BoxSize
    rank: int | None
    targets: Targets
    include: Sequence[str]
    exclude: Sequence[str]
    dac: DACSource
    giv_dim: int | None
    init: Init

    @property
    def usual(self) -> Preset:
        """What the preset has."""
        return PRESETS[self.preset]

    @property
    def keeps_whole_sets(self) -> bool:
        """Whether boxes hold the trained weights of each block as a row, and so take M rows at least."""
        return self.rank is None and self.init == "preserve"

    @classmethod
    def of(cls, model: nn.Module, options: Options) -> Choices:
        """From what the user gave, for a model.

        Raises:
            OptionError: an option has a value that is not accepted, or no module of the model has such a name.
            AlreadyConvertedError: the model is converted already.
        """
        every: Options = {**DEFAULTS, **options}
        _check_model(model)
        _check_values(every)
        _check_globs(model, every)
        usual, rank = PRESETS[every["preset"]], every["rank"]
        full = (every["box"] or usual.box) == "full"
        if rank is not None and full:
            raise OptionError(
                f"`rank` is {rank}, but the boxes are full; give `box='low_rank'` too, or leave `rank` out."
            )
        return cls(
            preset=every["preset"],
            split_at=every["split_at"],
            example_inputs=every["example_inputs"],
            box_size=every["box_size"],
            rank=None if full else rank or DEFAULT_RANK,
            targets=every["targets"] or usual.targets,
            include=every["include"],
            exclude=every["exclude"],
            dac=usual.dac if every["dac"] is None else every["dac"],
            giv_dim=every["giv_dim"],
            init=every["init"],
        )


def network_of(model: Any) -> nn.Module:
    """The network itself, without what compilers and parallel wrappers put around it and its parts.

    Where a loader's description of one is given, such as spandrel's `ModelDescriptor`, it is that network.
    """
    inner = getattr(model, "model", None)
    network = inner if not isinstance(model, nn.Module) and isinstance(inner, nn.Module) else model
    return without_wrappers(network) if isinstance(network, nn.Module) else network


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise OptionError(f"`model` is a {type(model).__name__}; hairify converts an nn.Module.")
    own = {m._context for m in model.modules() if isinstance(m, Converted)}
    if isinstance(model, Converted) or any(
        isinstance(m, HyperLayer) and m.hair_address.context not in own for m in model.modules()
    ):
        raise AlreadyConvertedError(
            "The model is a HairModel already, or part of one. Convert the original model, or change this one with "
            "`hairify(hair.bake(giv=...), ...)`."
        )


def _check_values(options: Options) -> None:
    for name, value, accepted in (
        ("preset", options["preset"], get_args(PresetName)),
        ("targets", options["targets"], (None, *get_args(Targets))),
        ("init", options["init"], get_args(Init)),
        ("box", options["box"], (None, *get_args(BoxKind))),
    ):
        if value not in accepted:
            raise OptionError(f"`{name}` is {value!r}; accepted are {', '.join(map(repr, accepted))}.")
    for name, number in (("giv_dim", options["giv_dim"]), ("rank", options["rank"])):
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise OptionError(f"`{name}` is {number!r}; accepted is an integer from 1 up.")
    check_generator(options["generator"])


def check_generator(generator: Any) -> None:
    """Make sure that `generator` is a generator of random numbers, or None.

    Raises:
        OptionError: `generator` is neither.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise OptionError(f"`generator` is {generator!r}; accepted is a Generator.")


def _check_globs(model: nn.Module, options: Options) -> None:
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for option, patterns in (("include", options["include"]), ("exclude", options["exclude"])):
        if not isinstance(patterns, (list, tuple)) or not all(isinstance(pattern, str) for pattern in patterns):
            raise OptionError(f"`{option}` is {patterns!r}; accepted is a sequence of globs, such as ('decoder.*',).")
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
                hint = f" The nearest names are {', '.join(map(repr, near))}." if near else ""
                raise OptionError(f"`{option}` holds {pattern!r}, which matches no module of the model.{hint}")
