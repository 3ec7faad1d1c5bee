"""What a restorer knows of GIVs: where those of each degradation lie, and what is seen by that."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import small_restormer
from torch import Tensor
from util import assert_close, perturb

from hairify import HairModel, hairify
from hairify.errors import CheckpointError, OptionError
from hairify.restoring import CLEAN, KnownGIV, KnownGIVs, known_givs

KNOWN = KnownGIVs(
    {
        CLEAN: KnownGIV((0.0, 0.0, 0.0), 1.0),
        "rain": KnownGIV((4.0, 0.0, 0.0), 1.0),
        "haze": KnownGIV((0.0, 6.0, 0.0), 2.0),  # usually √2 from their means, all together
    }
)
numbers = st.floats(-10, 10).map(lambda x: round(x, 3))
points = st.tuples(numbers, numbers, numbers).map(lambda p: torch.tensor([p], dtype=torch.float64))


@given(points)
def test_the_nearest_mean_is_seen(giv: Tensor) -> None:
    sight = KNOWN.look(giv)
    far = {name: math.dist(giv[0].tolist(), one.mean) for name, one in KNOWN.items()}
    assert far[sight.nearest] == min(far.values())
    assert sorted(far, key=lambda name: far[name]) == [*sight.distances] or len({*far.values()}) < 3
    assert [*sight.distances.values()] == sorted(sight.distances.values())
    assert 0 <= sight.certainty <= 1
    assert sight.is_known == (far[sight.nearest] <= 2 * KNOWN[sight.nearest].spread)
    for name, distance in sight.distances.items():
        assert math.isclose(distance, far[name] / math.sqrt(2), abs_tol=1e-9)  # the mean square of spreads is 2


def test_what_varies_much_hides_nothing_that_lies_within_it() -> None:
    known = KnownGIVs({CLEAN: KnownGIV((0.0,), 0.1), "noise5-50": KnownGIV((2.0,), 3.0)})
    assert known.look(torch.tensor([0.15])).nearest == CLEAN


def test_what_is_certain_and_what_is_not() -> None:
    assert KNOWN.look(KNOWN.giv("rain")).certainty == 1
    assert KNOWN.look(torch.tensor([2.0, 0.0, 0.0])).certainty == 0
    far = KNOWN.look(torch.tensor([-9.0, -9.0, 0.0]))
    assert (far.nearest, far.is_known) == (CLEAN, False)


@given(points, st.floats(0, 2))
def test_strength_moves_along_the_line_from_clean_images(giv: Tensor, strength: float) -> None:
    moved, clean = KNOWN.moved(giv, strength), KNOWN.giv(CLEAN).to(giv)
    assert_close(moved + 20, clean + strength * (giv - clean) + 20, 1e-12)
    assert torch.equal(KNOWN.moved(giv, 0), clean)
    assert_close(KNOWN.moved(giv, 1) + 20, giv + 20, 1e-12)


def test_what_is_not_known_is_said() -> None:
    with pytest.raises(OptionError, match="knows no degradation 'fog'; it knows clean, rain, haze"):
        KNOWN.giv("fog")
    with pytest.raises(OptionError, match="has 4 numbers; these are of another network"):
        KNOWN.look(torch.zeros(4))
    with pytest.raises(OptionError, match="needed is > 0"):
        KnownGIVs({"a": KNOWN["rain"], "b": KnownGIV((0.0, 0.0, 0.0), 0.0)})
    for known in ({}, {"a": KNOWN["rain"]}, {"a": KNOWN["rain"], "b": KnownGIV((1.0,), 1.0)}):
        with pytest.raises(OptionError, match="needed are two or more of one length"):
            KnownGIVs(known)
    with pytest.raises(OptionError, match="'clean'"):
        KnownGIVs({"a": KNOWN["rain"], "b": KNOWN["haze"]}).moved(torch.zeros(1, 3), 0.5)


def test_a_file_keeps_them(tmp_path: Path) -> None:
    known = KnownGIVs({"ü": KnownGIV((1 / 3, -2e-17), 0.1), CLEAN: KnownGIV((math.pi, 1e300), 7.0)})
    known.save(tmp_path / "givs.json")
    assert dict(KnownGIVs.load(tmp_path / "givs.json")) == dict(known)


NOT_FINITE = json.dumps({"version": 1, "known": {n: {"mean": [math.nan], "spread": 1} for n in "ab"}})
EMPTY, OTHERS = '{"version": 1, "known": {}}', '{"version": 1, "known": {"a": 1, "b": 2}}'


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"version": 1}', EMPTY, OTHERS, NOT_FINITE])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "givs.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"givs\.json is damaged"):
        KnownGIVs.load(tmp_path / "givs.json")


def test_a_newer_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "givs.json").write_text('{"version": 2}')
    with pytest.raises(CheckpointError, match="is of version 2; this hairify reads 1"):
        KnownGIVs.load(tmp_path / "givs.json")


@pytest.fixture
def hair() -> HairModel:
    return perturb(hairify(small_restormer()))


def test_they_are_the_means_of_images_givs(hair: HairModel) -> None:
    images = {
        name: [scale * torch.rand(3, 32, size) for size in (32, 48, 64)] for name, scale in (("dark", 0.2), (CLEAN, 1))
    }
    hair.train()
    state = torch.get_rng_state()
    known = known_givs(hair, images)
    assert torch.equal(torch.get_rng_state(), state)
    assert hair.training
    assert [*known] == ["dark", CLEAN]
    for name, of_it in images.items():
        givs = torch.cat([hair.giv(image[None]) for image in of_it]).detach().double()
        assert_close(known.giv(name), givs.mean(0, keepdim=True).float(), 1e-5)
        around = (givs - givs.mean(0)).square().sum() / 2
        assert math.isclose(known[name].spread, float(around.sqrt()), rel_tol=1e-4)
        assert known.look(known.giv(name)).nearest == name


def test_single_images_are_seen_again(hair: HairModel) -> None:
    """Their spread is that of the others, or by how far they are from each other."""
    dark, bright = torch.rand(3, 32, 32) / 5, [torch.rand(3, 32, 32) for _ in range(3)]
    for clean in (bright, bright[:1]):
        known = known_givs(hair, {"dark": [dark], CLEAN: clean})
        assert known["dark"].spread == (known[CLEAN].spread if len(clean) > 1 else pytest.approx(known[CLEAN].spread))
        sight = known.look(hair.giv((dark * 1.01)[None]))
        assert sight.nearest == "dark"
        assert sight.is_known


def test_images_that_are_all_alike_have_a_spread() -> None:
    hair = hairify(small_restormer())
    image = torch.rand(3, 32, 32)
    known = known_givs(hair, {"a": [image] * 2, CLEAN: [image] * 2})
    assert all(one.spread > 0 for one in known.values())
    assert known.look(hair.giv(image[None])).certainty == 0


def test_what_has_no_images_or_no_numbers_is_refused(hair: HairModel) -> None:
    with pytest.raises(OptionError, match="no images of fog"):
        known_givs(hair, {"fog": [], CLEAN: [torch.rand(3, 32, 32)]})
    with pytest.raises(OptionError, match="not finite"):
        known_givs(hair, {"fog": [torch.full((3, 32, 32), math.nan)], CLEAN: [torch.rand(3, 32, 32)]})
