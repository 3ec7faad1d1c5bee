"""Tiles: they cover, blend, share one GIV, and are one at a time."""

from __future__ import annotations

import itertools
import math
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import small_restormer
from torch import Tensor, nn
from util import assert_close, assert_differs, perturb

from benchmarks.tiling import measure
from hairify import HairModel, hairify
from hairify.errors import NetworkError, OptionError
from hairify.models import airnet
from hairify.restoring import TilingSettings, giv_of, restore_tiled, restore_whole
from hairify.restoring import _tiling as tiling
from hairify.restoring._tiling import blending_weights, pad_to_multiple, tile_starts

SMALL = TilingSettings(tile=32, overlap=16, giv_tiles=4)
ROUNDING = 2e-5  # of networks in float32, relative to the largest value


@pytest.fixture(scope="module")
def hair() -> HairModel:
    torch.manual_seed(0)
    return perturb(hairify(small_restormer())).eval()


def image(height: int, width: int) -> Tensor:
    """Smooth, with noise that grows to the right: parts of it have GIVs that differ."""
    down, across = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    noise = torch.randn(3, height, width, generator=torch.Generator().manual_seed(1))
    smooth = torch.stack([down * across, (down + across) / 2, (1 - down) * (1 - across)])
    return (smooth + 0.3 * across * noise).clamp(0, 1)[None]


class Pointwise(nn.Module):
    """Looks at each pixel by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GELU(), nn.Conv2d(8, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def box_mean(reach: int) -> nn.Module:
    """The mean over a square: what is farthest counts as much as what is next."""
    network = nn.Conv2d(3, 3, 2 * reach + 1, padding=reach, groups=3, bias=False)
    nn.init.constant_(network.weight, (2 * reach + 1) ** -2)
    return network


class Halving(nn.Module):
    """Treats even and odd pixels differently, as networks with strides do; looks one pixel further at most."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 2, 2), nn.ConvTranspose2d(8, 3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (7, 16), (8, 8), (17, 5)])
@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_padding_reflects_then_repeats(size: tuple[int, int], multiple: int) -> None:
    images = torch.rand(2, 3, *size)
    missing = [-n % multiple for n in size]
    reach = [min(m, n - 1) for m, n in zip(missing, size, strict=True)]
    none = [(0, 0), (0, 0)]
    expected = np.pad(images.numpy(), [*none, *((0, r) for r in reach)], "reflect")
    expected = np.pad(expected, [*none, *((0, m - r) for m, r in zip(missing, reach, strict=True))], "edge")
    assert np.array_equal(pad_to_multiple(images, multiple).numpy(), expected)


def test_what_needs_no_padding_is_not_copied() -> None:
    images = torch.rand(1, 3, 16, 24)
    assert pad_to_multiple(images, 8) is images


@given(data=st.data())
def test_tiles_cover_a_side_evenly_with_no_more_than_needed(data: st.DataObject) -> None:
    tile = data.draw(st.integers(1, 40))
    overlap = data.draw(st.integers(0, tile - 1))
    length = data.draw(st.integers(tile, 400))
    starts = tile_starts(length, tile, overlap)
    steps = [after - before for before, after in itertools.pairwise(starts)]
    assert starts[0] == 0
    assert starts[-1] == length - tile
    assert all(0 < step <= tile - overlap for step in steps)
    assert not steps or max(steps) - min(steps) <= 1
    reached_by_one_less = tile + (len(starts) - 2) * (tile - overlap)
    assert len(starts) == 1 or reached_by_one_less < length


@given(data=st.data())
def test_weights_are_a_partition_of_unity_that_spares_the_edges_of_tiles(data: st.DataObject) -> None:
    tile = data.draw(st.integers(1, 40))
    overlap = data.draw(st.integers(0, tile - 1))
    length = data.draw(st.integers(tile, 300))
    starts = tile_starts(length, tile, overlap)
    weights = blending_weights(starts, length, tile, overlap // 2)
    total = torch.zeros(length)
    for start, row in zip(starts, weights, strict=True):
        total[start : start + tile] += row
    assert weights.shape == (len(starts), tile)
    assert weights.min() >= 0
    assert (total - 1).abs().max() < 1e-6
    margin = overlap // 4
    assert weights[1:, :margin].abs().sum() == 0
    assert weights[:-1, tile - margin :].abs().sum() == 0


def test_weights_go_over_smoothly() -> None:
    one, other = blending_weights([0, 24], 56, 32, 8)
    assert torch.equal(one[:24], torch.ones(24))
    assert (one[24:].diff() <= 0).all()
    assert one.diff().abs().max() < 0.25  # of a step of 1 over 8 pixels: sin² is at most π/2 times as steep as a line
    assert torch.allclose(other[:8], one[24:].flip(0), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (31, 33), (64, 97), (100, 75)])
@pytest.mark.parametrize("overlap", [0, 5, 16, 24])
def test_pixels_by_themselves_need_no_neighbours(size: tuple[int, int], overlap: int) -> None:
    network, whole = Pointwise(), image(*size)
    with torch.no_grad():
        expected = network(whole).clamp(0, 1)
    assert_differs(expected, whole)
    assert_close(restore_tiled(network, whole, TilingSettings(32, overlap, 1), 1), expected, 1e-6)


@pytest.mark.parametrize("size", [(64, 96), (100, 75), (20, 130)])
def test_a_reach_of_a_quarter_of_the_overlap_is_exact(size: tuple[int, int]) -> None:
    whole, network = image(*size), box_mean(4)
    expected = restore_whole(network, whole, 1)
    assert_differs(expected, whole)
    assert_close(restore_tiled(network, whole, SMALL, 1), expected, 1e-6)


def test_a_longer_reach_leaves_the_middle_of_tiles_exact() -> None:
    whole, network = image(64, 96), box_mean(5)  # a size at which tiles overlap by no more than is asked
    difference = (restore_tiled(network, whole, SMALL, 1) - restore_whole(network, whole, 1)).abs().amax((0, 1))
    # Tiles begin at 16, 32, ... and go over into each other in the middle half of what they share.
    rows, columns = (torch.tensor([16 <= p < n - 16 and 4 <= p % 16 < 12 for p in range(n)]) for n in (64, 96))
    blended = rows[:, None] | columns
    assert difference[blended].max() > 1e-5
    assert difference[~blended].max() < 1e-6


def test_tiles_begin_at_multiples() -> None:
    network, whole = Halving(), image(45, 77)
    expected = restore_whole(network, whole, 2)
    assert_differs(expected, whole)
    # With these, tiles that are spread by pixels would begin at odd ones.
    assert tile_starts(78, 32, 5) == [0, 23, 46]
    assert_close(restore_tiled(network, whole, TilingSettings(32, 5, 1), 2), expected, 1e-6)


def test_tiles_of_one_giv_differ_no_more_than_those_of_the_static_network(hair: HairModel) -> None:
    whole = image(70, 90)
    giv = giv_of(hair, whole, SMALL, 8)
    tiled = restore_tiled(hair, whole, SMALL, 8)
    with hair.conditioned_on(giv):
        untiled = restore_whole(hair, whole, 8)
    static = hair.bake(giv=giv)
    static_tiled, static_untiled = restore_tiled(static, whole, SMALL, 8), restore_whole(static, whole, 8)
    seams = static_tiled - static_untiled
    assert seams.abs().max() > 1e-3  # Restormer's attention is over a whole tile
    assert_close(tiled, static_tiled, ROUNDING)
    assert_close(tiled - untiled, seams, 100 * ROUNDING)
    assert (tiled - untiled).abs().max() <= seams.abs().max() + ROUNDING
    with hair.conditioned_on(giv_of(hair, whole[..., 45:], SMALL, 8)):
        assert_differs(restore_whole(hair, whole, 8), untiled)


def test_the_benchmark_of_seams(hair: HairModel) -> None:
    result = measure(hair, image(70, 90), tile=32, overlap=16)
    assert result.static.largest > 0.1
    assert abs(result.one_giv.largest - result.static.largest) < 0.01
    assert result.difference.largest < 0.01
    assert result.own_givs.mean > result.one_giv.mean


def test_a_given_giv_is_used(hair: HairModel) -> None:
    whole, giv = image(40, 70), torch.randn(1, 64)
    with mock.patch.object(HairModel, "giv", side_effect=AssertionError):
        restored = restore_tiled(hair, whole, SMALL, 8, giv=giv)
    assert_close(restored, restore_tiled(hair.bake(giv=giv), whole, SMALL, 8), ROUNDING)
    assert_differs(restored, restore_tiled(hair, whole, SMALL, 8))


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (5, 7), (20, 31), (32, 32)])
def test_what_fits_into_a_tile_is_one_plain_run(size: tuple[int, int], hair: HairModel) -> None:
    small = image(*size)
    with torch.no_grad():
        expected = hair(pad_to_multiple(small, 8))[..., : size[0], : size[1]].clamp(0, 1)
    assert torch.equal(restore_tiled(hair, small, SMALL, 8), expected)
    assert torch.equal(restore_whole(hair, small, 8), expected)
    giv = giv_of(hair, small, SMALL, 8)
    assert torch.equal(giv, hair.giv(pad_to_multiple(small, 8)))
    assert_close(restore_tiled(hair, small, SMALL, 8, giv=giv), expected, ROUNDING)


@pytest.mark.parametrize("size", [(32, 32), (40, 50), (130, 60), (9, 300), (100, 100)])
@pytest.mark.parametrize("most", [1, 3, 4, 16])
def test_the_giv_is_the_mean_of_few_tiles_run_to_the_split(size: tuple[int, int], most: int, hair: HairModel) -> None:
    whole = image(*size)
    givs, tiles, later = [], [], []
    of = HairModel.giv

    def giv(self: HairModel, x: Tensor) -> Tensor:
        tiles.append(x)
        givs.append(of(self, x))
        return givs[-1]

    hook = hair.base.get_submodule("latent.0").register_forward_hook(lambda *_: later.append(1))
    with mock.patch.object(HairModel, "giv", giv):
        mean = giv_of(hair, whole, TilingSettings(32, 16, most), 8)
    hook.remove()
    assert not later
    assert 1 <= len(tiles) <= most
    assert len({tile.shape for tile in tiles}) == 1
    assert torch.equal(mean, sum(givs[1:], givs[0]) / len(givs)) or torch.allclose(mean, sum(givs) / len(givs))
    padded = pad_to_multiple(whole, 8)
    places = [_place(tile, padded) for tile in tiles]  # each is a piece of the image, and another one
    assert len(set(places)) == len(places)
    assert all(place is not None for place in places)


def _place(tile: Tensor, within: Tensor) -> tuple[int, int] | None:
    """Where a tile was cut out, by looking for it."""
    height, width = tile.shape[2:]
    rows, columns = within.shape[2] - height + 1, within.shape[3] - width + 1
    places = ((y, x) for y in range(0, rows, 8) for x in range(0, columns, 8))
    return next(((y, x) for y, x in places if torch.equal(within[:, :, y : y + height, x : x + width], tile)), None)


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), most=st.integers(1, 64))
def test_tiles_for_the_giv_are_spread_over_both_sides(rows: int, columns: int, most: int) -> None:
    down, across = tiling._evenly_spaced(rows, columns, most)
    for chosen, of in ((down, rows), (across, columns)):
        assert chosen == sorted(set(chosen))
        ends = [chosen[0], of - 1 - chosen[-1]]
        gaps = [after - before for before, after in itertools.pairwise(chosen)]
        assert min(ends) >= 0
        assert max(ends) <= of / len(chosen) / 2
        assert not gaps or max(gaps) - min(gaps) <= 1
    assert len(down) * len(across) <= most
    if most >= rows * columns:
        assert len(down) * len(across) == rows * columns
    elif min(rows, columns) ** 2 >= most:  # neither side is short of tiles
        assert len(down) * len(across) > most / 2
        assert 1 / 3 <= (rows / len(down)) / (columns / len(across)) <= 3 or min(len(down), len(across)) <= 2


def test_the_result_does_not_depend_on_the_order_of_tiles(hair: HairModel) -> None:
    whole = image(70, 90)
    expected = restore_tiled(hair, whole, SMALL, 8)
    flip = {"flipped": 0}

    def backwards(length: int, tile: int, overlap: int) -> list[int]:
        flip["flipped"] += 1
        return tile_starts(length, tile, overlap)[::-1]

    def weights(starts: list[int], *rest: int) -> Tensor:
        return blending_weights(starts[::-1], *rest).flip(0)

    giv = giv_of(hair, whole, SMALL, 8)
    with mock.patch.multiple(tiling, tile_starts=backwards, blending_weights=weights):
        reversed_order = restore_tiled(hair, whole, SMALL, 8, giv=giv)
    assert flip["flipped"] == 2
    assert_close(reversed_order, expected, 1e-6)


def test_one_tile_at_a_time_whatever_the_size(hair: HairModel) -> None:
    shapes: list[torch.Size] = []
    hook = hair.base.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    told: list[tuple[int, int]] = []
    restore_tiled(hair, image(150, 110), SMALL, 8, on_tile=lambda *done: told.append(done))
    hook.remove()
    assert set(shapes) == {(1, 3, 32, 32)}
    count = math.ceil((152 - 16) / 16) * math.ceil((112 - 16) / 16)
    assert told == [(i + 1, count) for i in range(count)]
    assert len(shapes) <= count + SMALL.giv_tiles


def test_weights_are_made_once_for_all_tiles(hair: HairModel) -> None:
    calls: list[int] = []
    hooks = [hsn.register_forward_hook(lambda *_: calls.append(1)) for hsn in hair.hsn]
    restore_tiled(hair, image(60, 60), SMALL, 8)
    for hook in hooks:
        hook.remove()
    assert len(calls) == len(hooks)


def test_dtypes_and_gradients(hair: HairModel) -> None:
    whole = image(40, 50)
    half = Pointwise().to(torch.bfloat16)
    restored = restore_tiled(half, whole, SMALL, 1)
    assert restored.dtype == torch.float32
    assert not restored.requires_grad
    assert_close(restored, restore_whole(half, whole, 1), 1e-6)
    double = restore_tiled(hair, whole.double(), SMALL, 8)
    assert double.dtype == torch.float64
    assert_close(double.float(), restore_tiled(hair, whole, SMALL, 8), ROUNDING)


def test_batches_are_restored_whole(hair: HairModel) -> None:
    images = torch.rand(2, 3, 19, 30)
    one_by_one = torch.cat([restore_whole(hair, x[None], 8) for x in images])
    assert_close(restore_whole(hair, images, 8), one_by_one, ROUNDING)


def test_networks_of_two_inputs() -> None:
    hair = perturb(hairify(airnet(dim=8, groups=4, blocks=2), split_at="R.body.1")).eval()
    whole = image(40, 45)
    giv = giv_of(hair, whole, SMALL, 1)
    assert giv.shape == (1, hair.plan.giv_dim)
    assert_close(restore_tiled(hair, whole, SMALL, 1), restore_tiled(hair.bake(giv=giv), whole, SMALL, 1), ROUNDING)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tile": 0}, "`tile` is 0"),
        ({"giv_tiles": 0}, "`giv_tiles` is 0"),
        ({"overlap": -1}, "`overlap` is -1"),
        ({"tile": 32, "overlap": 32}, "`overlap` is 32"),
    ],
)
def test_settings_are_checked(options: dict[str, int], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        TilingSettings(**options)


def test_settings_must_suit_the_network(hair: HairModel) -> None:
    whole = image(40, 40)
    with pytest.raises(OptionError, match=r"`tile` is 36; accepted are multiples of 8.*such as 32"):
        restore_tiled(hair, whole, TilingSettings(tile=36), 8)
    with pytest.raises(OptionError, match=r"`overlap` is 28.*up to 24"):
        giv_of(hair, whole, TilingSettings(tile=32, overlap=28), 8)


def test_misuse_is_named(hair: HairModel) -> None:
    whole = image(40, 40)
    with pytest.raises(OptionError, match=r"\(2, 3, 40, 40\)"):
        restore_tiled(hair, torch.cat([whole, whole]), SMALL, 8)
    with pytest.raises(OptionError, match="`giv` is for HairModels"):
        restore_tiled(Pointwise(), whole, SMALL, 1, giv=torch.zeros(1, 64))
    with pytest.raises(NetworkError, match="without a wrapper"):
        restore_tiled(nn.Sequential(hair), whole, SMALL, 8)
    broken = Pointwise()
    nn.init.constant_(broken.layers[0].weight, math.inf)  # type: ignore[arg-type]
    with pytest.raises(NetworkError, match="not finite"):
        restore_tiled(broken, whole, SMALL, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_single_values_that_are_not_finite_are_found_and_large_ones_are_none(dtype: torch.dtype) -> None:
    class Placed(nn.Module):
        """Puts values into the first pixels of an image."""

        def __init__(self, *values: float) -> None:
            super().__init__()
            self.values = nn.Parameter(torch.tensor(values, dtype=dtype))

        def forward(self, images: Tensor) -> Tensor:
            placed = images.clone()
            placed[0, 0, 0, : len(self.values)] = self.values
            return placed

    whole = image(40, 40)
    for values in ([math.inf], [-math.inf], [math.nan], [math.inf, -math.inf]):
        with pytest.raises(NetworkError, match="not finite"):
            restore_tiled(Placed(*values), whole, SMALL, 1)
    largest = min(torch.finfo(dtype).max, torch.finfo(torch.float32).max)  # in which tiles are blended
    assert restore_tiled(Placed(largest, largest), whole, SMALL, 1).isfinite().all()  # whose sum may not be finite


@pytest.mark.parametrize("size", [(64, 64), (61, 90), (37, 41)])
def test_a_tile_is_the_same_wherever_padding_begins(size: tuple[int, int]) -> None:
    whole = image(*size)
    padded = pad_to_multiple(whole, 8)
    tiles = tiling._Tiles(whole, TilingSettings(32, 8), 8)
    for i, top in enumerate(tiles.rows.starts):
        for j, left in enumerate(tiles.columns.starts):
            cut = tiles.cut(whole, i, j)
            assert cut.is_contiguous()
            assert torch.equal(cut, padded[:, :, top : top + tiles.rows.tile, left : left + tiles.columns.tile])
