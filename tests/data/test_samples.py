"""Training samples: number i is always the same, in balance, drawn evenly; what cannot be read is reported."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from layouts import Pixels, photographs, pixels, write
from torch import Tensor
from torch.utils.data import DataLoader

from hairify.data import samples as module
from hairify.data.datasets import Task
from hairify.data.images import read_integers, read_rgb
from hairify.data.samples import Sample, TrainingSamples, collate
from hairify.errors import DataError

P = 16
PLENTY = 2**24
FLIPS = ([], [1], [2], [1, 2])


def coordinates(path: Path, height: int = 40, width: int = 48) -> Path:
    """A photograph whose red is the column and whose green is the row of each pixel."""
    rows, columns = np.mgrid[:height, :width]
    return write(path, np.stack([columns, rows, np.full_like(rows, 99)], axis=-1).astype(np.uint8))


def places(patch: Tensor) -> tuple[int, int, bool, bool]:
    """Top, left, flipped vertically, flipped horizontally; of a patch of `coordinates`."""
    columns, rows = (patch[:2] * 255).round().int()
    return int(rows.min()), int(columns.min()), bool(rows[0, 0] > rows[1, 0]), bool(columns[0, 0] > columns[0, 1])


def equal(one: Sample, other: Sample) -> bool:
    tensors = all(torch.equal(one[key], other[key]) for key in ("degraded", "clean"))
    return tensors and one["task"] == other["task"] and one["unreadable"] == other["unreadable"]


def assert_even(values: Iterable[object], kinds: int) -> None:
    """Values are uniform over their kinds: the statistic χ² is within five deviations of what it should be."""
    counts = Counter(values)
    expected = sum(counts.values()) / kinds
    assert expected >= 5, "too few draws to tell"
    assert len(counts) <= kinds
    seen = sum((count - expected) ** 2 / expected for count in counts.values())
    statistic = seen + (kinds - len(counts)) * expected
    assert statistic < kinds - 1 + 5 * (2 * (kinds - 1)) ** 0.5


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    """Noise, rain and pairs of a kind that cannot be synthesised; one photograph cannot be read."""
    clean = photographs(tmp_path / "clean", 4)
    write(tmp_path / "clean" / "broken.png", pixels("broken")).write_bytes(b"no image")
    sharp = photographs(tmp_path / "sharp", 3)
    blurred = [write(tmp_path / "blur" / path.name, 255 - pixels(f"sharp{i}")) for i, path in enumerate(sharp)]
    with_broken = (*clean, tmp_path / "clean" / "broken.png")
    return [
        Task("noise25", "noise25", with_broken, None),
        Task("rain", "rain", tuple(clean), None),
        Task("blur", "blur", tuple(sharp), tuple(blurred)),
    ]


def test_a_sample_depends_on_seed_and_index_alone(tasks: list[Task]) -> None:
    first = TrainingSamples(tasks, P, 3, PLENTY)
    wanted = [first[i] for i in range(30)]
    assert not any(equal(a, b) for a, b in itertools.combinations(wanted, 2))
    assert any(sample["unreadable"] for sample in wanted)
    torch.manual_seed(5)
    other = TrainingSamples(tasks, P, 3, 10_000)  # one photograph fits in
    state = torch.get_rng_state()
    for i in (*range(29, -1, -1), 7, 7):
        assert equal(other[i], wanted[i])
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(equal(TrainingSamples(tasks, P, 4, 0)[i], wanted[i]) for i in range(30))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_draw_the_same_samples(workers: int, tasks: list[Task]) -> None:
    samples = TrainingSamples(tasks, P, 0, PLENTY)
    loader = DataLoader(
        samples,
        batch_size=4,
        sampler=range(100, 112),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        collate_fn=collate,
    )
    batches = list(loader)
    assert [len(batch["task"]) for batch in batches] == [4, 4, 4]
    for batch, start in zip(batches, (100, 104, 108), strict=True):
        wanted = collate([samples[i] for i in range(start, start + 4)])
        assert batch["degraded"].shape == batch["clean"].shape == (4, 3, P, P)
        assert batch["degraded"].dtype == batch["clean"].dtype == torch.float32
        assert batch["task"].dtype == torch.int64
        assert all(torch.equal(batch[key], wanted[key]) for key in ("degraded", "clean", "task"))
        assert batch["unreadable"] == wanted["unreadable"]


def test_collate_keeps_what_each_sample_says() -> None:
    patches = torch.rand(4, 3, P, P)
    made = [
        Sample(
            degraded=patches[i],
            clean=patches[i + 2],
            task=2 - i,
            image=f"{i}.png",
            unreadable=[(f"{i}", "a"), ("x", "b")][: i + 1],
        )
        for i in (0, 1)
    ]
    batch = collate(made)
    assert torch.equal(batch["degraded"], patches[:2])
    assert torch.equal(batch["clean"], patches[2:])
    assert batch["task"].tolist() == [2, 1]
    assert batch["unreadable"] == [("0", "a"), ("1", "a"), ("x", "b")]
    assert batch["image"] == ["0.png", "1.png"]


def numbers(samples: TrainingSamples, indices: Iterable[int]) -> list[int]:
    return [samples[i]["task"] for i in indices]


def test_tasks_are_balanced_in_an_order_of_its_own_for_each_round(tmp_path: Path) -> None:
    clean = tuple(photographs(tmp_path, 1, 8, 8))
    samples = TrainingSamples([Task(f"noise{n}", f"noise{n}", clean, None) for n in range(3)], 4, 0, PLENTY)
    rounds = [tuple(numbers(samples, range(start, start + 3))) for start in range(0, 900, 3)]
    assert {tuple(sorted(one)) for one in rounds} == {(0, 1, 2)}
    assert_even(rounds, 6)


def test_photographs_places_and_flips_are_drawn_evenly(tmp_path: Path) -> None:
    paths = tuple(coordinates(tmp_path / f"{i}.png") for i in range(5))
    task = Task("noise0", "noise0", paths, None)  # which changes nothing
    samples = TrainingSamples([task], P, 0, PLENTY)
    drawn = [places(samples[i]["clean"]) for i in range(1000)]
    assert {top for top, *_ in drawn} == set(range(40 - P + 1))
    assert {left for _, left, *_ in drawn} == set(range(48 - P + 1))
    assert_even((top for top, *_ in drawn), 40 - P + 1)
    assert_even((left for _, left, *_ in drawn), 48 - P + 1)
    assert_even((flips for *_, flips in drawn), 2)
    assert_even((place[2:] for place in drawn), 4)
    # Places are drawn independently of each other, and of the flips.
    assert_even(((top > 12, left > 16, flipped) for top, left, flipped, _ in drawn if top != 12 and left != 16), 8)


def test_each_photograph_is_drawn_as_often(tmp_path: Path) -> None:
    paths = tuple(write(tmp_path / f"{i}.png", np.full((8, 8, 3), i, np.uint8)) for i in range(6))
    samples = TrainingSamples([Task("noise0", "noise0", paths, None)], 8, 0, PLENTY)
    assert_even((round(samples[i]["clean"].mean().item() * 255) for i in range(600)), 6)


def test_a_patch_has_the_pixels_of_the_photograph(tmp_path: Path) -> None:
    path = photographs(tmp_path, 1)[0]
    whole = read_rgb(path)
    samples = TrainingSamples([Task("noise25", "noise25", (path,), None)], P, 0, PLENTY)
    for i in range(5):
        clean = samples[i]["clean"]
        windows = whole.unfold(1, P, 1).unfold(2, P, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        assert any((windows == clean.flip(flip)).flatten(1).all(1).any() for flip in FLIPS)


def test_a_degradation_is_drawn_anew_for_each_sample(tmp_path: Path) -> None:
    path = write(tmp_path / "grey.png", np.full((P, P, 3), 128, np.uint8))
    samples = TrainingSamples([Task("noise25", "noise25", (path,), None)], P, 0, PLENTY)
    noise = torch.stack([samples[i]["degraded"] - samples[i]["clean"] for i in range(20)]) * 255
    assert noise.std().item() == pytest.approx(25, rel=0.05)
    assert abs(np.corrcoef(noise.flatten(1).numpy()) - np.eye(20)).max() < 0.2


def test_pairs_are_cut_and_flipped_alike(tasks: list[Task]) -> None:
    samples = TrainingSamples(tasks[2:], P, 0, PLENTY)
    drawn = [samples[i] for i in range(40)]
    assert len({sample["clean"].sum().item() for sample in drawn}) > 20
    for sample in drawn:
        assert torch.allclose(sample["degraded"], 1 - sample["clean"], atol=1e-6)


def test_real_and_synthesised_images_in_one_task(tmp_path: Path) -> None:
    real, photo = photographs(tmp_path, 2)
    degraded = write(tmp_path / "degraded.png", 255 - pixels(f"{tmp_path.name}0"))
    samples = TrainingSamples([Task("rain", "rain", (real, photo), (degraded, None))], P, 0, PLENTY)
    negatives = [torch.allclose(samples[i]["degraded"], 1 - samples[i]["clean"], atol=1e-6) for i in range(100)]
    assert_even(negatives, 2)
    brighter = [bool((samples[i]["degraded"] >= samples[i]["clean"] - 1e-6).all()) for i in range(100)]
    assert all(rain != negative for rain, negative in zip(brighter, negatives, strict=True))


@pytest.mark.parametrize(("height", "width"), [(5, 40), (40, 5), (3, 2), (1, 1), (1, 30), (15, 16)])
def test_small_photographs_are_continued_by_reflection(height: int, width: int, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path = write(tmp_path / "small.png", picture)
    sample = TrainingSamples([Task("noise0", "noise0", (path,), None)], P, 0, PLENTY)[0]
    padded = continued(picture)
    windows = padded.unfold(1, P, 1).unfold(2, P, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    assert any((windows == sample["clean"].flip(flip)).flatten(1).all(1).any() for flip in FLIPS)


def continued(picture: Pixels) -> Tensor:
    """Oracle: numpy's reflection, to the right and below."""
    missing = [(0, max(P - side, 0)) for side in picture.shape[:2]]
    padded = np.pad(picture, [*missing, (0, 0)], mode="reflect")
    return torch.from_numpy(padded).permute(2, 0, 1) / 255


def test_16_bits_are_kept(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (P, P, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    samples = TrainingSamples([Task("rain", "rain", (tmp_path / "deep.png",), None)], P, 0, PLENTY)
    for i in range(4):
        clean = samples[i]["clean"]
        assert any(torch.allclose(clean.flip(flip), read_rgb(tmp_path / "deep.png"), atol=1e-7) for flip in FLIPS)
        assert ((clean * 255) - (clean * 255).round()).abs().max() > 0.1


def test_what_cannot_be_read_is_replaced_and_reported_each_time(tasks: list[Task]) -> None:
    broken = str(tasks[0].clean[-1])
    samples = TrainingSamples(tasks[:1], P, 0, PLENTY)
    reports = [samples[i]["unreadable"] for i in range(200)]
    assert all(len(report) <= 1 for report in reports)
    met = sum(map(len, reports))
    assert met == pytest.approx(200 / 5, abs=5 * (200 * 0.2 * 0.8) ** 0.5)
    assert all(path == broken and len(reason) > 10 for report in reports for path, reason in report)


def test_two_that_cannot_be_read_are_reported_once_each(tmp_path: Path) -> None:
    good = photographs(tmp_path, 1)[0]
    missing = tmp_path / "missing.png"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    samples = TrainingSamples([Task("rain", "rain", (good, missing, broken), None)], P, 0, PLENTY)
    seen = set()
    for i in range(60):
        named = tuple(path for path, _ in samples[i]["unreadable"])
        assert len(named) == len(set(named))
        seen.add(named)
    one, two = str(missing), str(broken)
    assert seen == {(), (one,), (two,), (one, two), (two, one)}


def test_a_pair_of_unequal_sizes_is_reported(tmp_path: Path) -> None:
    clean = photographs(tmp_path / "clean", 2)
    degraded = [write(tmp_path / "a.png", pixels("a")), write(tmp_path / "b.png", pixels("b", 40, 44))]
    samples = TrainingSamples([Task("blur", "blur", tuple(clean), tuple(degraded))], P, 0, PLENTY)
    ((path, reason),) = {one for i in range(20) for one in samples[i]["unreadable"]}
    assert path == str(degraded[1])
    assert "44×40" in reason
    assert "48×40" in reason


def test_values_that_are_no_numbers_are_never_learnt(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).random((40, 48, 3), np.float32)
    good, bad = tmp_path / "good.tif", tmp_path / "bad: it is.tif"
    tifffile.imwrite(good, levels, photometric="rgb")
    levels[3, 5] = np.nan
    tifffile.imwrite(bad, levels, photometric="rgb")
    for task in (
        Task("noise25", "noise25", (good, bad), None),
        Task("blur", "blur", (good, good), (good, bad)),
        Task("blur", "blur", (good, bad), (good, bad)),
    ):
        samples = TrainingSamples([task], P, 0, PLENTY)
        drawn = [samples[i] for i in range(20)]
        assert {path for sample in drawn for path, _ in sample["unreadable"]} == {str(bad)}
        assert all("3 of its values are not finite" in why for sample in drawn for _, why in sample["unreadable"])
        assert all(sample["degraded"].isfinite().all() and sample["clean"].isfinite().all() for sample in drawn)


def test_a_known_border_is_cut_off_the_clean_image(tmp_path: Path) -> None:
    big = pixels("indoor", 60, 68)
    clean = write(tmp_path / "gt.png", big)
    degraded = write(tmp_path / "hazy.png", 255 - big[10:-10, 10:-10])
    samples = TrainingSamples([Task("haze", "haze", (clean,), (degraded,), border=10)], P, 0, PLENTY)
    for i in range(10):
        assert not samples[i]["unreadable"]
        assert torch.allclose(samples[i]["degraded"], 1 - samples[i]["clean"], atol=1e-6)


def test_nothing_that_can_be_read(tmp_path: Path) -> None:
    paths = tuple(tmp_path / f"{i}.png" for i in range(3))
    samples = TrainingSamples([Task("rain", "rain", paths, None)], P, 0, PLENTY)
    with pytest.raises(DataError, match=r"None of the 3 images of 'rain' can be used.*\.png: "):
        samples[0]


class CountedReads:
    def __init__(self) -> None:
        self.paths: list[Path] = []

    def __call__(self, path: Path) -> Tensor:
        self.paths.append(path)
        return read_integers(path)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> CountedReads:
    counted = CountedReads()
    monkeypatch.setattr(module, "read_integers", counted)
    return counted


SIZE = 3 * 40 * 48  # bytes of a photograph


@pytest.mark.parametrize(("limit", "kept"), [(0, 0), (SIZE - 1, 0), (SIZE, 1), (2 * SIZE + 1, 2), (9 * SIZE, 4)])
def test_memory_is_limited_and_the_oldest_goes_first(
    limit: int, kept: int, reads: CountedReads, tmp_path: Path
) -> None:
    cache = module._Cache(limit)
    paths = photographs(tmp_path, 4)
    fresh: list[Path] = []  # oracle: the most recent last
    expected: list[Path] = []
    for i in np.random.default_rng(0).integers(0, 4, 60):
        path = paths[i]
        cache.read(path)
        if path not in fresh:
            expected.append(path)
        fresh = [*(other for other in fresh if other != path), path][-kept:] if kept else []
        held = sum(image.nbytes for image in cache.images.values())
        assert held == cache.size <= limit
        assert list(cache.images) == fresh
    assert reads.paths == expected
    assert len(cache.images) == kept


def test_photographs_in_memory_do_not_travel(tasks: list[Task], reads: CountedReads) -> None:
    samples = TrainingSamples(tasks, P, 0, PLENTY)
    before = len(pickle.dumps(samples))
    drawn = [samples[i] for i in range(20)]
    assert reads.paths
    assert len(pickle.dumps(samples)) == before
    copy = pickle.loads(pickle.dumps(samples))
    assert all(equal(copy[i], drawn[i]) for i in range(20))


def test_an_epoch_has_each_image_of_each_task(tasks: list[Task]) -> None:
    assert TrainingSamples(tasks, P, 0, 0).epoch == 5 + 4 + 3


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "no tasks"),
        ([Task("rain", "rain", (), None)], "'rain' has no images"),
        ([Task("fog", "fog", (Path("a.png"),), None)], "fog"),
        ([Task("fog", "fog", (Path("a.png"), Path("b.png")), (Path("c.png"), None))], "fog"),
    ],
)
def test_tasks_that_cannot_be_learnt_are_refused_at_once(tasks: Sequence[Task], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TrainingSamples(tasks, P, 0, 0)
