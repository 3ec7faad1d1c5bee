"""Restoring with another GIV than a photograph's own: the laws of strength, examples and passes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import small_restormer
from torch import Tensor, nn
from util import assert_differs, perturb

from hairify import HairModel, hairify
from hairify.data._image import Image
from hairify.data.degradations import degradation
from hairify.data.images import read, write
from hairify.data.photographs import HELD_OUT, TRAINING, photographs
from hairify.errors import OptionError
from hairify.evaluation import psnr
from hairify.models import unet
from hairify.restoring import (
    CLEAN,
    Guidance,
    GuidanceSettings,
    KnownGIVs,
    RestoringSettings,
    TilingSettings,
    giv_of,
    known_givs,
    restore_files,
    restore_tiled,
)

TILES = TilingSettings(tile=32, overlap=8, giv_tiles=2)
LEVEL = 0.51 / 255


@pytest.fixture(scope="module")
def hair() -> HairModel:
    torch.manual_seed(0)
    return perturb(hairify(small_restormer()), 0.3).eval()


@pytest.fixture(scope="module")
def known(hair: HairModel) -> KnownGIVs:
    torch.manual_seed(1)
    return known_givs(hair, {n: [scale * torch.rand(3, 32, 32)] for n, scale in ((CLEAN, 1), ("dark", 0.1))})


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    write(Image(pixels=(torch.rand(3, 40, 56) * 255).round() / 255), tmp_path / "a.png")
    return tmp_path / "a.png"


def restored(model: nn.Module, photograph: Path, guidance: Guidance, **settings: Any) -> Tensor:
    """(1, 3, H, W), as the file has it."""
    output = photograph.parent / f"out{len([*photograph.parent.iterdir()])}"
    outcomes = restore_files(
        model,
        [photograph],
        output,
        multiple=8,
        tiling=TILES,
        settings=RestoringSettings(**settings),
        guidance=guidance,
    )
    assert [outcome.status for outcome in outcomes] == ["restored"], outcomes
    return read(output / "a.png").pixels[None]


def tiled(hair: HairModel, image: Tensor, giv: Tensor | None = None) -> Tensor:
    return restore_tiled(hair, image, TILES, 8, giv=giv)


def test_by_default_and_at_strength_1_it_is_the_plain_result(
    hair: HairModel, known: KnownGIVs, photograph: Path
) -> None:
    plain = restored(hair, photograph, Guidance())
    assert torch.equal(restored(hair, photograph, Guidance(strength=1.0, known=known)), plain)
    assert (plain - tiled(hair, read(photograph).pixels[None])).abs().max() <= LEVEL


@pytest.mark.parametrize("bake", [False, True])
@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_strength(hair: HairModel, known: KnownGIVs, photograph: Path, strength: float, bake: bool) -> None:
    image = read(photograph).pixels[None]
    own, clean = giv_of(hair, image, TILES, 8), known.giv(CLEAN)
    expected = tiled(hair, image, clean + strength * (own - clean))
    assert_differs(expected, tiled(hair, image))
    got = restored(hair, photograph, Guidance(strength=strength, known=known), bake=bake)
    assert (got - expected).abs().max() <= LEVEL


def test_a_giv_of_a_file_goes_where_the_model_is(hair: HairModel, known: KnownGIVs, photograph: Path) -> None:
    """And into its precision."""
    double = copy.deepcopy(hair).double()
    image, giv = read(photograph).pixels[None], known.giv("dark")
    assert giv.dtype == torch.float32
    assert (tiled(double, image, giv) - tiled(hair, image, giv)).abs().max() <= LEVEL
    for bake in (False, True):
        got = restored(double, photograph, Guidance(giv=giv), bake=bake)
        assert (got - tiled(hair, image, giv)).abs().max() <= 1.02 * LEVEL


def test_as_another_and_half_of_it(hair: HairModel, known: KnownGIVs, photograph: Path) -> None:
    image, giv = read(photograph).pixels[None], known.giv("dark")
    got = restored(hair, photograph, Guidance(giv=giv))
    assert (got - tiled(hair, image, giv)).abs().max() <= LEVEL
    half = restored(hair, photograph, Guidance(strength=0.5, giv=giv, known=known))
    assert (half - tiled(hair, image, (giv + known.giv(CLEAN)) / 2)).abs().max() <= LEVEL
    assert_differs(half, got)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_passes_look_again(hair: HairModel, known: KnownGIVs, photograph: Path, strength: float) -> None:
    """Each pass has the numbers of the one before, not those of a file."""

    def once(image: Tensor) -> Tensor:
        own = giv_of(hair, image, TILES, 8)
        return tiled(hair, image, known.moved(own, strength))

    first = once(read(photograph).pixels[None])
    got = restored(hair, photograph, Guidance(strength=strength, passes=2, known=known))
    assert_differs(got, first)
    assert (got - once(first)).abs().max() <= 1.02 * LEVEL


def test_progress_counts_the_tiles_of_all_passes(hair: HairModel, photograph: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    restore_files(
        hair,
        [photograph],
        tmp_path / "out",
        multiple=8,
        tiling=TILES,
        settings=RestoringSettings(),
        guidance=Guidance(passes=3),
        on_tile=lambda path, done, of: told.append((done, of)),
    )
    assert told == [(i + 1, len(told)) for i in range(len(told))]
    assert len(told) % 3 == 0


def test_what_cannot_be_guided_is_refused_before_anything_is_written(
    hair: HairModel, known: KnownGIVs, photograph: Path, tmp_path: Path
) -> None:
    cases = [
        (nn.Identity(), Guidance(strength=0.5, known=known), "this Identity is a static network"),
        (nn.Identity(), Guidance(giv=torch.zeros(1, 8)), "this Identity is a static network"),
        (hair, Guidance(strength=0.5), "were not kept"),
    ]
    for model, guidance, message in cases:
        with pytest.raises(OptionError, match=message):
            restored(model, photograph, guidance)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    restored(nn.Identity(), photograph, Guidance(passes=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -0.1}, "`strength` is -0.1; accepted are numbers from 0 to 2"),
        ({"strength": float("nan")}, "`strength` is nan"),
        ({"strength": 2.1}, "`strength` is 2.1"),
        ({"passes": 0}, "`passes` is 0; accepted are numbers from 1 to 10"),
        ({"as_degradation": "rain", "like": Path("a.png")}, "give one of them"),
        ({"as_degradation": "rain", "passes": 2}, "leave no room"),
        ({"like": Path("a.png"), "passes": 2}, "leave no room"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        GuidanceSettings(**settings)


@pytest.mark.slow
def test_where_clean_images_were_learnt_strength_0_leaves_photographs_as_they_are() -> None:
    torch.manual_seed(0)
    hair = hairify(unet(width=12))
    clean = torch.cat([crops(read(path).pixels, 48) for path in photographs(TRAINING)])
    generator = torch.Generator().manual_seed(0)
    noise, nothing = degradation("noise25"), degradation("noise0")

    def batch(count: int) -> tuple[Tensor, Tensor]:
        chosen = clean[torch.randint(len(clean), (count,), generator=generator)]
        half = count // 2
        return torch.cat([noise(chosen[:half], generator), nothing(chosen[half:], generator)]), chosen

    hair.calibrate(batch(64)[0])
    optimizer = torch.optim.AdamW(hair.parameters(), 2e-3)
    for _ in range(300):
        degraded, wanted = batch(16)
        optimizer.zero_grad()
        (hair(degraded) - wanted).abs().mean().backward()
        optimizer.step()
    hair.eval()
    known = known_givs(hair, {"noise25": [*noise(clean[::40], generator)], CLEAN: [*clean[::40]]})
    image = crops(read(photographs(HELD_OUT)[1]).pixels, 96)[:1]
    noisy = noise(image, generator)
    changed = {}
    for strength in (0.0, 0.5, 1.0):
        giv = known.moved(giv_of(hair, noisy, TILES, 4), strength)
        changed[strength] = float((tiled(hair, noisy, giv) - noisy).square().mean())
    assert changed[0.0] < changed[0.5] < changed[1.0]
    assert changed[0.0] < 0.1 * changed[1.0]
    assert psnr(tiled(hair, image, known.giv(CLEAN)), image) > 35


def crops(pixels: Tensor, side: int) -> Tensor:
    """All of a photograph (3, H, W) in squares."""
    parts = pixels.unfold(1, side, side).unfold(2, side, side)
    return parts.permute(1, 2, 0, 3, 4).flatten(0, 1)
