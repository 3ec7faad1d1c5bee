"""What is measured on a GPU, the most important first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.cases import BARE, TUNED, Case, Variant

NETWORKS = ("restormer-48", "nafnet", "swinir", "unet")
TINY = ("tiny-restormer", "tiny-nafnet", "tiny-swinir", "tiny-unet")
SIZE, TINY_SIZE = 128, 32

ONE: tuple[Variant, ...] = ("static", "hairified", "conditioned", "baked")
MANY: tuple[Variant, ...] = ("static", "hairified", "tuned", "grouped", "conditioned", "baked")


def eager(device: str, quick: bool) -> Iterator[Case]:
    """Forwards of one image and of many, then training steps; in bfloat16 first, as most people use GPUs."""
    networks, size = (TINY, TINY_SIZE) if quick else (NETWORKS, SIZE)
    for mode, batches in (("forward", (1, 2) if quick else (1, 8, 32)), ("training", (2,) if quick else (8, 32))):
        for bfloat16 in (True, False):
            for batch in batches:
                variants = TUNED if mode == "training" else ONE if batch == 1 else MANY
                for network in networks:
                    yield Case(network, mode, batch, size, variants, device=device, bfloat16=bfloat16)


def compiled(device: str, quick: bool) -> Iterator[Case]:
    """One image by each network, by CUDA graphs too, then eight, and training; Restormer last, for it takes minutes."""
    networks, size = (TINY[-1:], TINY_SIZE) if quick else ((*NETWORKS[:0:-1],), SIZE)
    for network in networks:
        one = Case(network, "forward", 1, size, BARE, device=device, bfloat16=True, compiled=True)
        yield one
        yield replace(one, graphs=True)
    if quick:
        return
    for network in networks:
        yield Case(network, "forward", 8, size, BARE, device=device, bfloat16=True, compiled=True)
        yield Case(network, "training", 8, size, BARE, device=device, bfloat16=True, compiled=True)
    yield Case(NETWORKS[0], "forward", 1, size, BARE, device=device, bfloat16=True, compiled=True)


def least_seconds(case: Case) -> float:
    """That should be left for a case to be begun."""
    if not case.compiled:
        return 5
    return 120 if case.network == NETWORKS[0] else 25
