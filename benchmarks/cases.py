"""What is measured: the cases of each run, as data."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from benchmarks.networks import NETWORKS, TINY

Mode: TypeAlias = Literal["forward", "training"]
Variant: TypeAlias = Literal["static", "hairified", "tuned", "grouped", "conditioned", "baked"]

FORWARD: tuple[Variant, ...] = ("static", "hairified", "grouped", "conditioned", "baked")
BATCH: tuple[Variant, ...] = ("static", "hairified", "grouped")
"""Variants of a forward of many images: for one GIV it is as with one image, but slower to measure."""
TUNED: tuple[Variant, ...] = ("static", "hairified", "tuned", "grouped")
BARE: tuple[Variant, ...] = ("static", "hairified")


@dataclass(frozen=True)
class Case:
    """One comparison of variants.

    Attributes:
        network: name of the network.
        mode: "forward" in inference mode, or "training": forward, loss and backward, without an optimizer.
        batch: images.
        size: of their sides.
        variants: what is compared, "static" first.
        box_factor: N = factor · M in every level; None for what hairify(network) makes.
        device: "cpu" or "cuda".
        bfloat16: whether under autocast.
        compiled: whether by torch.compile.
        graphs: whether that replays CUDA graphs (`mode="reduce-overhead"`).
        dynamic: whether it is compiled for images of any number and size, not for these alone.
    """

    network: str
    mode: Mode
    batch: int
    size: int
    variants: tuple[Variant, ...]
    box_factor: int | None = None
    device: str = "cpu"
    bfloat16: bool = False
    compiled: bool = False
    graphs: bool = False
    dynamic: bool = False

    @property
    def name(self) -> str:
        """For people, and for `--only`."""
        parts = [self.network, self.mode, f"b{self.batch}", str(self.size)]
        parts += [f"N{self.box_factor}M"] if self.box_factor else []
        parts += [self.device] if self.device != "cpu" else []
        return "/".join(
            [*parts, *(word for word in ("bfloat16", "compiled", "graphs", "dynamic") if getattr(self, word))]
        )

    @property
    def is_usual(self) -> bool:
        """On CPU as hairify converts without options: what targets are for."""
        return self.device == "cpu" and self.box_factor is None and not self.bfloat16 and not self.compiled


def default_cases(devices: Sequence[str]) -> list[Case]:
    """The cases of targets first, then other sizes, curves, compiled; about twenty minutes on two cores."""
    cases = [*_target_cases(), *_other_sizes(), *_curves(), *_compiled()]
    if "cuda" in devices:
        cases += _on_cuda([*_target_cases(), *_other_sizes()])
    return _once(cases)


def _target_cases() -> Iterator[Case]:
    yield Case("restormer-48", "forward", 1, 128, FORWARD)
    yield Case("restormer-48", "forward", 8, 128, TUNED)
    yield Case("restormer-24", "training", 8, 128, TUNED)
    for network in ("nafnet", "swinir", "unet"):
        yield Case(network, "forward", 1, 128, FORWARD)
        yield Case(network, "forward", 8, 128, TUNED)
        yield Case(network, "training", 8, 128, TUNED)


def _other_sizes() -> Iterator[Case]:
    yield Case("restormer-48", "forward", 1, 64, FORWARD)
    yield Case("restormer-48", "forward", 8, 64, BATCH)
    yield Case("restormer-24", "training", 8, 64, BATCH)
    yield Case("restormer-48", "forward", 1, 256, BARE)
    for network in ("nafnet", "swinir", "unet"):
        yield Case(network, "forward", 8, 64, BATCH)
        yield Case(network, "forward", 1, 256, BARE)
    for network in ("nafnet", "unet"):
        yield Case(network, "training", 8, 64, BATCH)
        yield Case(network, "forward", 32, 64, BATCH)
        yield Case(network, "forward", 1, 512, BARE)
    yield Case("nafnet", "training", 1, 128, BATCH)
    yield Case("nafnet", "training", 32, 64, BATCH)


def _curves() -> Iterator[Case]:
    for batch in (1, 2, 4, 8, 16, 32):
        yield Case("nafnet", "forward", batch, 64, BATCH)
    for batch in (1, 2, 4, 8, 16):
        yield Case("restormer-24", "forward", batch, 64, BATCH)
    for size in (64, 128, 256, 512):
        yield Case("nafnet", "forward", 1, size, BARE)
    for factor in (None, 2, 4, 8):
        for network in ("nafnet", "restormer-24"):
            yield Case(network, "forward", 8, 64, BATCH, box_factor=factor)


def _compiled() -> Iterator[Case]:
    """By Inductor, for these images alone and for any; Restormer takes minutes to compile, and is left out."""
    for network in ("nafnet", "swinir", "unet"):
        for batch in (1, 8):
            case = Case(network, "forward", batch, 128, BARE, compiled=True)
            yield case
            yield replace(case, dynamic=True)
        yield Case(network, "training", 8, 128, BARE, compiled=True)


def _on_cuda(cases: Iterable[Case]) -> Iterator[Case]:
    """Eager, under autocast, and compiled; the last at one size of each network, since compiling takes minutes."""
    for case in cases:
        case = replace(case, device="cuda")
        yield case
        yield replace(case, bfloat16=True)
        if case.size == 128:
            yield replace(case, compiled=True, variants=BARE)
            yield replace(case, compiled=True, bfloat16=True, variants=BARE)


def full_cases(devices: Sequence[str]) -> list[Case]:
    """The whole grid, small images first; hours."""
    cases = [*default_cases(devices)]
    for device, size, batch, network in itertools.product(devices, (64, 128, 256), (1, 4, 8, 32), NETWORKS):
        kinds = ((False, False),) if device == "cpu" else itertools.product((False, True), repeat=2)
        for bfloat16, compiled in kinds:
            forward = Case(network, "forward", batch, size, FORWARD, None, device, bfloat16, compiled)
            cases += [forward, replace(forward, mode="training", variants=BATCH)]
    cases += [Case(network, "forward", 1, 512, FORWARD, device=d) for d in devices for network in NETWORKS]
    return _once(cases)


def quick_cases(devices: Sequence[str]) -> list[Case]:
    """Seconds, with tiny networks: whether all of it runs."""
    cases = [Case("tiny-nafnet", "forward", batch, 32, FORWARD) for batch in (1, 2)]
    cases += [Case(network, "forward", 2, 32, FORWARD) for network in TINY]
    cases += [Case("tiny-nafnet", "training", 2, 32, TUNED), Case("tiny-nafnet", "forward", 1, 64, FORWARD)]
    cases += [Case("tiny-nafnet", "forward", 2, 32, BATCH, box_factor=2)]
    cases += [replace(case, device="cuda", bfloat16=True) for case in cases[:1] if "cuda" in devices]
    return _once(cases)


def _once(cases: Iterable[Case]) -> list[Case]:
    """Without repetitions, those of one network and box together, so that it is converted once."""
    unique: dict[str, Case] = {}
    for case in cases:
        known = unique.setdefault(case.name, case)
        if len(case.variants) > len(known.variants):
            unique[case.name] = case
    places: dict[tuple[str, int | None, str], int] = {}
    for case in unique.values():
        places.setdefault((case.network, case.box_factor, case.device), len(places))
    return sorted(unique.values(), key=lambda c: places[c.network, c.box_factor, c.device])


def select(cases: Sequence[Case], only: str | None) -> list[Case]:
    """The cases whose names match a glob; all without one."""
    return [case for case in cases if only is None or fnmatch.fnmatchcase(case.name, only)]
