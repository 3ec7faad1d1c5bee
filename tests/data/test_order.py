"""Which degradation, and which image, each sample shows; and how patches are turned."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layouts import photographs, write
from torch import Tensor

from hairify.data._order import Order
from hairify.data._shards import Shards
from hairify.data.datasets import DataSettings, Task, training_tasks
from hairify.data.samples import TrainingSamples, samples_for
from hairify.errors import DataError, OptionError


def task(name: str, count: int) -> Task:
    return Task(name, name, tuple(Path(f"{name}-{i}.png") for i in range(count)), None)


TASKS = (task("noise15", 4), task("noise50", 4), task("rain", 2), task("haze", 5))


def test_an_epoch_with_repeats_has_each_image_so_often() -> None:
    order = Order(TASKS, 0, {"noise": 3, "rain": 7, "noise50": 2}, {})
    assert order.epoch == 4 * 3 + 4 * 2 + 2 * 7 + 5
    times = (3, 2, 7, 1)
    expected = Counter({(i, image): times[i] for i, one in enumerate(TASKS) for image in range(len(one.clean))})
    epochs = [[order[i] for i in range(start, start + order.epoch)] for start in (0, order.epoch, 4 * order.epoch)]
    assert [Counter(epoch) for epoch in epochs] == [expected] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(set(epochs[0][:12])) > 4  # not one image after the other


def test_shares_are_kept_in_each_round() -> None:
    order = Order(TASKS, 0, {}, {"noise": 0.5, "haze": 1.5})
    places = [order[i] for i in range(7 * 30)]
    assert {image for _, image in places} == {None}
    for start in range(0, len(places), 7):
        assert Counter(number for number, _ in places[start : start + 7]) == {0: 1, 1: 1, 2: 2, 3: 3}
    assert order.epoch == 15


def test_equal_shares_change_nothing() -> None:
    plain, equal = Order(TASKS, 3, {}, {}), Order(TASKS, 3, {}, {"noise": 2, "rain": 2, "haze": 2})
    assert [plain[i] for i in range(40)] == [equal[i] for i in range(40)]


def test_without_either_it_is_as_it_was() -> None:
    """The order that runs of hairify before this had, which are gone on with."""
    order = Order(TASKS, 0, {}, {})
    first = [order[i][0] for i in range(12)]
    assert first == [0, 1, 2, 3, 3, 0, 2, 1, 1, 2, 0, 3]
    assert [sorted(first[i : i + 4]) for i in range(0, 12, 4)] == [[0, 1, 2, 3]] * 3


def test_the_order_follows_from_seed_and_number_alone() -> None:
    def make(seed: int = 0) -> Order:
        return Order(TASKS, seed, {"rain": 3}, {})

    forwards = [make()[i] for i in range(60)]
    order = make()
    assert [order[i] for i in reversed(range(60))] == forwards[::-1]
    assert [make(1)[i] for i in range(60)] != forwards


def test_an_image_that_is_repeated_is_shown_anew_each_time(tmp_path: Path) -> None:
    settings = DataSettings(data=(tmp_path / "a",), degradations=("noise25", "rain"), repeats={"rain": 4}, patch_size=8)
    photographs(tmp_path / "a", count=3)
    samples = samples_for(training_tasks(settings), settings, 0)
    assert samples.epoch == 2 * 1 + 2 * 4
    drawn = [samples[i] for i in range(10)]
    assert sorted(Counter((s["task"], s["image"]) for s in drawn).values()) == [1, 1, 4, 4]
    rainy = [s["degraded"] for s in drawn if s["task"] == 1]
    assert not any(torch.equal(a, b) for i, a in enumerate(rainy) for b in rainy[:i])


def test_what_cannot_be_read_is_replaced_with_repeats_too(tmp_path: Path) -> None:
    paths = photographs(tmp_path, count=2)
    paths[0].write_bytes(b"no image")
    samples = TrainingSamples([Task("rain", "rain", tuple(paths), None)], 8, 0, 0, repeats={"rain": 2})
    drawn = [samples[i] for i in range(4)]
    assert {s["image"] for s in drawn} == {str(paths[1])}
    assert [len(s["unreadable"]) for s in drawn].count(1) == 2


def test_workers_with_repeats_draw_the_same() -> None:
    order = Order(TASKS, 0, {"rain": 3}, {})
    wanted = [order[i] for i in range(50)]
    assert [pickle.loads(pickle.dumps(order))[i] for i in range(50)] == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": {"rain": 2}, "shares": {"rain": 2.0}}, "`repeats` and `shares` both say"),
        ({"repeats": {"rain": 0}}, "`repeats` has 0 for 'rain'; accepted are 1, 2, 3"),
        ({"shares": {"rain": 0.0}}, "`shares` has 0.0 for 'rain'; accepted are numbers from 0.001 to 100"),
        ({"repeats": {"rian": 2}}, r"`repeats` has 'rian', which is no degradation; .* Did you mean 'rain'"),
        ({"shares": {"hase": 2.0}}, r"`shares` has 'hase'.* Did you mean 'haze'"),
    ],
)
def test_what_is_not_accepted(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TrainingSamples(TASKS, 8, 0, 0, **options)


def test_degradations_that_nothing_shows_may_be_named() -> None:
    """A recipe has numbers for more data than there may be."""
    assert Order(TASKS, 0, {"low_light": 20, "blur": 5, "noise25": 3}, {}).epoch == 15


# How patches are turned


def turns(augmentation: Any, tmp_path: Path) -> Counter[bytes]:
    """How often each of 800 patches, of the size of its photograph, shows it in which way."""
    picture = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    path = write(tmp_path / "a.png", picture)
    samples = TrainingSamples([Task("noise0", "noise0", (path,), None)], 16, 0, 2**20, augmentation=augmentation)
    return Counter((samples[i]["clean"] * 255).round().to(torch.uint8).numpy().tobytes() for i in range(800))


def ways(picture: Tensor, *, turned: bool) -> set[bytes]:
    """All flips, and quarter turns of them, by torch.rot90."""
    flips = [picture.flip(axes) for axes in ((), (1,), (2,), (1, 2))]
    every = [flip.rot90(k, (1, 2)) for flip in flips for k in range(4 if turned else 1)]
    return {one.contiguous().numpy().tobytes() for one in every}


@pytest.mark.parametrize(("augmentation", "count"), [("none", 1), ("flips", 4), ("all", 8)])
def test_patches_are_turned_in_each_way_as_often(augmentation: str, count: int, tmp_path: Path) -> None:
    picture = torch.from_numpy(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)).permute(2, 0, 1)
    seen = turns(augmentation, tmp_path)
    expected = {picture.contiguous().numpy().tobytes()} if count == 1 else ways(picture, turned=count == 8)
    assert seen.keys() == expected
    assert len(seen) == count
    assert min(seen.values()) > 0.7 * 800 / count


def test_pairs_are_turned_alike(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    clean, degraded = write(tmp_path / "a.png", picture), write(tmp_path / "b.png", 255 - picture)
    samples = TrainingSamples([Task("rain", "rain", (clean,), (degraded,))], 8, 0, 2**20, augmentation="all")
    for i in range(30):
        assert torch.allclose(samples[i]["degraded"], 1 - samples[i]["clean"], atol=1e-6)


def test_a_sample_of_another_size_is_of_the_same_photograph(tmp_path: Path) -> None:
    paths = tuple(photographs(tmp_path, count=5))
    samples = TrainingSamples([Task("noise25", "noise25", paths, None)], 8, 0, 2**20)
    for i in range(10):
        sized = samples.sized(i, 24)
        assert sized["clean"].shape == sized["degraded"].shape == (3, 24, 24)
        assert sized["image"] == samples[i]["image"]
        assert torch.equal(samples.sized(i, 8)["degraded"], samples[i]["degraded"])


def test_an_unknown_augmentation() -> None:
    with pytest.raises(OptionError, match="`augmentation` is 'turns'; accepted are none, flips, all"):
        DataSettings(augmentation="turns")  # type: ignore[arg-type]


def test_repeats_are_not_for_shards() -> None:
    """Which is said with the way out, also for the repeats of a recipe."""
    shards = Shards("a.tar", ("a.tar",), is_pairs=False, samples=3, window=1, cache_bytes=0)
    task = Task("noise25 in shards", "noise25", (), None, shards=shards)
    with pytest.raises(DataError, match=r"is no list of images: use `shares`, and .* `repeats = \{\}` in a file"):
        Order([task], 0, {"noise": 3}, {})
