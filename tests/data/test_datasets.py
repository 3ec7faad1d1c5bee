"""Tasks from folders: each layout is found with its halves, pairs and names; what lacks is named."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
from layouts import LAYOUTS, Pair, photographs, pixels, write
from torch import Tensor

from hairify.data import datasets
from hairify.data.datasets import DataSettings, Task, load_pair, training_tasks
from hairify.errors import DataError, HairWarning, ImageError, OptionError

# Of what is left out of the layouts, which tests below expect where they are about it.
pytestmark = pytest.mark.filterwarnings("ignore::hairify.errors.HairWarning")

tasks_to_test = datasets.test_tasks  # under a name that pytest does not collect

NOISES = ("noise15", "noise25", "noise50")
DEGRADATIONS = {
    "Rain100L": "rain",
    "Rain100H": "rain",
    "Rain13K": "rain",
    "Test1200": "rain",
    "Snow100K": "snow",
    "RainDrop": "raindrops",
    "OTS": "haze",
    "ITS": "haze",
    "SOTS": "haze",
    "RESIDE-6K": "haze",
    "GoPro": "blur",
    "LOL-v1": "low_light",
}
NAMES = {
    "Rain100L as published": {"Rain100L"},
    "SOTS": {"SOTS", "SOTS indoor"},
    "Snow100K": {"Snow100K-S", "Snow100K-L"},
    "RainDrop": {"RainDrop test_a", "RainDrop test_b"},
    "RESIDE-6K": {"RESIDE-6K haze"},
}

every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def set_name(layout: str) -> str:
    return layout.partition(" ")[0]


def files(tasks: list[Task], root: Path) -> set[tuple[str | None, str]]:
    """(degraded, clean) of all tasks, below the root."""
    found = set()
    for task in tasks:
        for i in range(len(task.clean)):
            degraded, clean = task.files(i)
            found.add((degraded and degraded.relative_to(root).as_posix(), clean.relative_to(root).as_posix()))
    return found


def expected(layout: str, *splits: str) -> set[tuple[str | None, str]]:
    return {(pair.degraded, pair.clean) for pair in LAYOUTS[layout] if pair.split in splits}


def tasks_or_none(find: Callable[[DataSettings], list[Task]], settings: DataSettings) -> list[Task]:
    try:
        return find(settings)
    except DataError as error:
        if not str(error).startswith("No images to "):
            raise
        return []


@every_layout
def test_each_half_goes_where_it_belongs(layout: str, tmp_path: Path) -> None:
    settings = DataSettings(data=(layouts.build(layout, tmp_path),))
    assert files(tasks_or_none(training_tasks, settings), tmp_path) == expected(layout, "train", "any")
    assert files(tasks_or_none(tasks_to_test, settings), tmp_path) == expected(layout, "test")


@every_layout
def test_as_test_data_the_training_half_is_left_out(layout: str, tmp_path: Path) -> None:
    settings = DataSettings(test_data=(layouts.build(layout, tmp_path),))
    assert files(tasks_or_none(tasks_to_test, settings), tmp_path) == expected(layout, "test", "any")


@every_layout
def test_names_and_degradations(layout: str, tmp_path: Path) -> None:
    root = layouts.build(layout, tmp_path)
    own = DEGRADATIONS.get(set_name(layout))
    training = tasks_or_none(training_tasks, DataSettings(data=(root,)))
    if training:
        assert [(t.name, t.degradation) for t in training] == [(d, d) for d in ([own] if own else NOISES)]
    tests = tasks_or_none(tasks_to_test, DataSettings(test_data=(root,)))
    name = set_name(layout)
    if tests:
        assert {t.name for t in tests} == (NAMES.get(layout, {name}) if own else {f"{name} {d}" for d in NOISES})
        assert {t.degradation for t in tests} == ({own} if own else set(NOISES))


PARTS = [
    (layout, depth)
    for layout, pairs in LAYOUTS.items()
    for depth in (1, 2)
    # Deeper are one half and single photographs.
    if depth == 1 or (pairs[0].degraded and len(Path(pairs[0].clean).parts) > 3)
]


@pytest.mark.parametrize(("layout", "depth"), PARTS)
def test_the_folder_given_may_be_the_data_set_or_part_of_it(layout: str, depth: int, tmp_path: Path) -> None:
    layouts.build(layout, tmp_path)
    pair = LAYOUTS[layout][0]
    root = tmp_path.joinpath(*Path(pair.clean).parts[:depth])
    if pair.split == "train":
        tasks = training_tasks(DataSettings(data=(root,)))
    else:
        tasks = tasks_to_test(DataSettings(test_data=(root,)))
    assert (pair.degraded, pair.clean) in files(tasks, tmp_path)


@every_layout
def test_case_does_not_matter(layout: str, tmp_path: Path) -> None:
    layouts.build(layout, tmp_path / "a")
    for path in sorted((tmp_path / "a").rglob("*"), key=lambda p: -len(p.parts)):
        path.rename(path.with_name(path.name.upper()))
    tasks = tasks_or_none(training_tasks, DataSettings(data=(tmp_path / "a",)))
    wanted = {(d and d.upper(), c.upper()) for d, c in expected(layout, "train", "any")}
    assert files(tasks, tmp_path / "a") == wanted


@every_layout
def test_degraded_and_clean_are_of_one_scene(layout: str, tmp_path: Path) -> None:
    root = layouts.build(layout, tmp_path)
    for tasks in (
        tasks_or_none(training_tasks, DataSettings(data=(root,))),
        tasks_or_none(tasks_to_test, DataSettings(test_data=(root,))),
    ):
        for task in tasks:
            for i in range(len(task.clean)):
                degraded, clean = load_pair(task, i)
                assert degraded.shape == clean.shape == (3, 40, 48)
                assert degraded.dtype == clean.dtype == torch.float32
                error = (degraded - (1 - clean if task.degraded is not None else clean)).abs().mean()
                assert error < (0.03 if task.degraded is not None else 0.15)


def test_all_data_sets_in_one_folder(tmp_path: Path) -> None:
    chosen = ("BSD400", "WED", "CBSD68", "Urban100", "Rain100L", "OTS", "SOTS", "GoPro", "LOL-v1")
    for layout in chosen:
        layouts.build(layout, tmp_path)
    photos = photographs(tmp_path / "holiday", 4)
    settings = DataSettings(data=(tmp_path,), hold_out=0.25)
    training, tests = training_tasks(settings), tasks_to_test(settings)
    assert [task.name for task in training] == [*settings.degradations, "blur", "low_light"]
    by_name = {task.name: task for task in training}
    noisy = {Path(pair.clean).name for layout in ("BSD400", "WED") for pair in LAYOUTS[layout]}
    photos_learnt = {photos[0].name, photos[1].name, photos[3].name}  # the middle one is kept
    assert {path.name for path in by_name["noise25"].clean} == noisy | photos_learnt
    assert by_name["noise25"].degraded is None
    # Of rain and haze there are real pairs.
    assert {path.name for path in by_name["rain"].clean} == {"norain-1.png", "norain-2.png"}
    assert by_name["rain"].degraded is not None
    assert None not in by_name["rain"].degraded
    names = [task.name for task in tests]
    assert len(names) == len(set(names))
    noises = [f"{name} {noise}" for name in ("CBSD68", "Urban100") for noise in NOISES]
    plain = [f"{tmp_path.name} {noise}" for noise in NOISES]
    assert set(names) == {*noises, *plain, "Rain100L", "SOTS", "SOTS indoor", "GoPro", "LOL-v1"}
    assert not {path for task in training for path in task.clean} & {path for task in tests for path in task.clean}


@pytest.mark.parametrize(
    ("count", "share", "kept"), [(2, 0.0, 1), (2, 0.1, 1), (10, 0.1, 1), (11, 0.1, 2), (30, 0.1, 3), (100, 0.07, 7)]
)
def test_held_out_photographs_are_a_share_spread_evenly(count: int, share: float, kept: int, tmp_path: Path) -> None:
    paths = photographs(tmp_path / "holiday", count, 8, 8)
    settings = DataSettings(data=(tmp_path / "holiday",), hold_out=share, degradations=("rain", "noise25"))
    training, tests = training_tasks(settings), tasks_to_test(settings)
    assert [task.name for task in training] == ["rain", "noise25"]
    assert [task.name for task in tests] == ["holiday rain", "holiday noise25"]
    for learnt, tested in zip(training, tests, strict=True):
        assert len(tested.clean) == kept
        assert sorted([*learnt.clean, *tested.clean]) == paths
        places = [paths.index(path) for path in tested.clean]
        gaps = [b - a for a, b in itertools.pairwise(places)]
        assert max(gaps, default=0) - min(gaps, default=0) <= 1
        # As much is left before the first as behind the last.
        assert abs(places[0] - (count - 1 - places[-1])) <= 1


def test_with_test_data_nothing_is_held_out(tmp_path: Path) -> None:
    paths, others = photographs(tmp_path / "mine", 3), photographs(tmp_path / "others", 2)
    settings = DataSettings(data=(tmp_path / "mine",), test_data=(tmp_path / "others",), degradations=("haze",))
    assert [task.clean for task in training_tasks(settings)] == [tuple(paths)]
    assert [(task.name, task.clean) for task in tasks_to_test(settings)] == [("others haze", tuple(others))]


def test_what_is_tested_on_is_never_learnt(tmp_path: Path) -> None:
    paths = photographs(tmp_path / "all", 3) + photographs(tmp_path / "all" / "tests", 2)
    settings = DataSettings(data=(tmp_path / "all",), test_data=(tmp_path / "all" / "tests",), degradations=("haze",))
    assert set(training_tasks(settings)[0].clean) == set(paths[:3])
    with pytest.raises(DataError, match=r"Nothing is left.*all: its 5 image\(s\) are tested on.*Add.*`test_data`"):
        training_tasks(dataclasses.replace(settings, test_data=settings.data))


def test_folders_of_one_name_stay_apart(tmp_path: Path) -> None:
    for parent in "ab":
        photographs(tmp_path / parent / "photos", 2)
    settings = DataSettings(test_data=(tmp_path / "a" / "photos", tmp_path / "b" / "photos"), degradations=("rain",))
    assert [task.name for task in tasks_to_test(settings)] == ["a/photos rain", "b/photos rain"]


def test_links_that_lead_in_circles_end(tmp_path: Path) -> None:
    paths = photographs(tmp_path / "photos", 3)
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos")
    tasks = training_tasks(DataSettings(data=(tmp_path / "photos",), degradations=("rain",), hold_out=0.1))
    assert tasks[0].clean == (paths[0], paths[2])


def test_a_synthesised_degradation_depends_on_degradation_index_and_seed_alone(tmp_path: Path) -> None:
    picture = pixels("one", 24, 32)
    paths = tuple(write(tmp_path / name, picture) for name in ("a.png", "b.png", "c.png"))

    def of(index: int, seed: int = 0, name: str = "noise25", clean: tuple[Path, ...] = paths) -> Tensor:
        return load_pair(Task("whatever", name, clean, None), index, seed)[0]

    first = of(0)
    torch.rand(3)
    assert torch.equal(first, of(0))
    assert torch.equal(first, of(0, clean=paths[::-1]))
    assert not torch.equal(first, of(1))
    assert not torch.equal(first, of(0, seed=1))
    assert not torch.equal(of(0, name="noise24") - of(0, name="noise26"), torch.zeros_like(first))
    clean = load_pair(Task("whatever", "noise25", paths, None), 0)[1]
    assert torch.equal(clean, torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255)
    assert (first - clean).std().item() * 255 == pytest.approx(25, rel=0.25)


def test_only_the_known_border_is_cut(tmp_path: Path) -> None:
    clean = pixels("scene", 60, 68)
    paths = {d: write(tmp_path / f"{d}.png", clean[d : 60 - d, d : 68 - d]) for d in (0, 9, 10)}

    def pair(degraded: int, clean: int, border: int) -> tuple[Tensor, Tensor]:
        return load_pair(Task("SOTS", "haze", (paths[clean],), (paths[degraded],), border), 0)

    for chosen in ((10, 0, 10), (10, 10, 10), (0, 0, 0)):
        assert torch.equal(*pair(*chosen))
    for chosen in ((9, 0, 10), (10, 0, 0), (0, 10, 10)):
        with pytest.raises(ImageError, match=r"has \d+×\d+ pixels, and its clean image .* has \d+×\d+"):
            pair(*chosen)


# What is not there, or not enough.


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`data` is empty: give folders of clean photographs.*BSD400.*LOL-v1"):
        training_tasks(DataSettings())
    with pytest.raises(DataError, match=r"There is no folder .*nowhere; give"):
        training_tasks(DataSettings(data=(tmp_path / "nowhere",)))
    file = photographs(tmp_path, 1)[0]
    with pytest.raises(DataError, match=r"000.png is a file; give a folder"):
        training_tasks(DataSettings(data=(file,)))
    with pytest.raises(DataError, match=r"nowhere"):
        tasks_to_test(DataSettings(data=(tmp_path,), test_data=(tmp_path / "nowhere",)))


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"is empty: looked, .*\.png.*for the data sets .*Rain100L"):
        training_tasks(DataSettings(data=(tmp_path,)))


def test_a_single_photograph(tmp_path: Path) -> None:
    photographs(tmp_path, 1)
    settings = DataSettings(data=(tmp_path,))
    assert {len(task.clean) for task in tasks_to_test(settings)} == {1}
    with pytest.raises(DataError, match=r"Nothing is left to learn from in .*1 image"):
        training_tasks(settings)


@pytest.mark.parametrize("inner", [".", "part"])
def test_folders_within_one_another(inner: str, tmp_path: Path) -> None:
    photographs(tmp_path / "part", 2)
    with pytest.raises(DataError, match=r"`data` has both .* one lies in the other"):
        training_tasks(DataSettings(data=(tmp_path, tmp_path / inner)))


def test_only_the_other_half(tmp_path: Path) -> None:
    layouts.build("SOTS", tmp_path / "a")
    layouts.build("BSD400", tmp_path / "b")
    with pytest.raises(DataError, match=r"No images to learn from: found SOTS.*\(test half\)"):
        training_tasks(DataSettings(data=(tmp_path / "a",)))
    with pytest.raises(DataError, match=r"No images to test on: found BSD400 \(training half\).*`test_data`"):
        tasks_to_test(DataSettings(data=(tmp_path / "b",)))


def test_clean_sets_need_noise_and_photographs_a_degradation(tmp_path: Path) -> None:
    layouts.build("BSD400", tmp_path / "a")
    for degradations in ((), ("rain", "haze+noise25")):
        with pytest.raises(DataError, match=r"BSD400.*has no noise, such as noise25"):
            training_tasks(DataSettings(data=(tmp_path / "a",), degradations=degradations))
    photographs(tmp_path / "b", 3)
    with pytest.raises(DataError, match=r"b \(b\) has clean photographs.* has none to put on them"):
        training_tasks(DataSettings(data=(tmp_path / "b",), degradations=()))
    layouts.build("LOL-v1", tmp_path / "c")
    tasks = training_tasks(DataSettings(data=(tmp_path / "c",), degradations=()))
    assert [task.name for task in tasks] == ["low_light"]


def halves(layout: str) -> tuple[Path, Path]:
    """The folders of the degraded and of the clean images of the first pair."""
    pair = LAYOUTS[layout][0]
    parents = [Path(path).parent for path in (pair.degraded or "", pair.clean)]
    while parents[0].parent != parents[1].parent:
        parents[0] = parents[0].parent  # rain/X2
    return parents[0], parents[1]


paired = pytest.mark.parametrize("layout", [name for name in LAYOUTS if LAYOUTS[name][0].degraded])


@paired
@pytest.mark.parametrize("lost", [0, 1])
def test_a_missing_half_is_named(layout: str, lost: int, tmp_path: Path) -> None:
    root = layouts.build(layout, tmp_path)
    shutil.rmtree(root / halves(layout)[lost])
    if lost == 0 and set_name(layout) == "RESIDE-6K":
        return  # clean photographs, of a data set that is not known by its name
    for find in (training_tasks, tasks_to_test):
        with pytest.raises(DataError) as caught:
            find(DataSettings(data=(root,), test_data=(root,)))
        kept, gone = halves(layout)[1 - lost], halves(layout)[lost]
        assert str(root / kept) in str(caught.value)
        assert gone.name.lower() in str(caught.value)


@paired
@pytest.mark.parametrize("lost", [0, 1])
def test_an_empty_half_is_named(layout: str, lost: int, tmp_path: Path) -> None:
    root = layouts.build(layout, tmp_path)
    empty = root / halves(layout)[lost]
    shutil.rmtree(empty)
    empty.mkdir()
    with pytest.raises(DataError, match=r"is incomplete: .* has no images") as caught:
        training_tasks(DataSettings(data=(root,)))
    assert str(empty) in str(caught.value)


@paired
def test_degraded_images_without_a_clean_one_are_named(layout: str, tmp_path: Path) -> None:
    root = layouts.build(layout, tmp_path)
    degraded, clean = (root / half for half in halves(layout))
    for n in range(90, 95):
        write(degraded / f"{n}.png", pixels("more"))
    with pytest.raises(DataError, match=r"has no clean image of 5 images \(90.png, 91.png, 92.png, \.\.\.\)") as caught:
        training_tasks(DataSettings(data=(root,)))
    assert str(clean) in str(caught.value)


@paired
def test_clean_images_without_a_degraded_one_are_named(layout: str, tmp_path: Path) -> None:
    root = layouts.build(layout, tmp_path)
    degraded, clean = (root / half for half in halves(layout))
    for n in range(90, 92):
        write(clean / f"{n}.png", pixels("more"))
    settings = DataSettings(data=(root,), test_data=(root,))
    if DEGRADATIONS[set_name(layout)] == "haze":  # a part of RESIDE is what most people have
        tests = tasks_or_none(tasks_to_test, settings)
        assert files(tests, root) == expected(layout, "test", "any")
        return
    with pytest.raises(DataError, match=r"has no degraded image of 2 images \(90.png, 91.png\)") as caught:
        training_tasks(settings)
    assert str(degraded) in str(caught.value)


def test_two_clean_images_of_one_number(tmp_path: Path) -> None:
    root = layouts.build("Rain100L", tmp_path)
    write(root / "Rain100L/train/norain/norain-0001.png", pixels("more"))
    with pytest.raises(DataError, match=r"several clean images.*norain-0001.png, norain-1.png"):
        training_tasks(DataSettings(data=(root,)))


def test_a_named_data_set_without_halves(tmp_path: Path) -> None:
    photographs(tmp_path / "GoPro", 2)
    with pytest.raises(DataError, match=r"is GoPro by its name, and lacks both halves.*`blur` and `sharp`.*rename"):
        training_tasks(DataSettings(data=(tmp_path,)))
    (tmp_path / "Urban100").mkdir()
    with pytest.raises(DataError, match=r"is Urban100 by its name, and .* has no images\. .*or in its folder hr"):
        tasks_to_test(DataSettings(test_data=(tmp_path / "Urban100",)))


@pytest.mark.parametrize(
    ("halves", "sets"), [(("input", "target"), "Rain100L.*GoPro"), (("synthetic", "gt"), "Snow100K")]
)
def test_pairs_of_which_nothing_says_what_degrades_them(halves: tuple[str, str], sets: str, tmp_path: Path) -> None:
    for half in halves:
        photographs(tmp_path / "mine" / half, 2)
    words = rf"mine has pairs in `{halves[0]}` and `{halves[1]}`.*Name a folder.*{sets}.*`pairs`: haze="
    with pytest.raises(DataError, match=words):
        training_tasks(DataSettings(data=(tmp_path,)))


@pytest.mark.parametrize("name", ["rain", "hazy", "blur", "input"])
def test_degraded_images_are_never_taken_for_clean_ones(name: str, tmp_path: Path) -> None:
    photographs(tmp_path / name, 3)
    for root in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match=rf"{name} has degraded images by its name.*rename"):
            training_tasks(DataSettings(data=(root,)))


def build(root: Path, *patterns: str) -> set[Path]:
    """Two images of each pattern, which has a place for the number."""
    paths = [root / pattern.format(n) for pattern in patterns for n in (1, 2)]
    return {write(path, pixels(path.name, 8, 8)) for path in paths}


# What is not clean, and what is.
UNKNOWN_PAIRS: dict[str, tuple[list[str], list[str]]] = {
    "halves named as BasicSR has them": (["DF/LQ/{}.png"], ["DF/GT/{}.png"]),
    "in scenes": (["DF/lq/a/{}.png"], ["DF/hq/a/{}.png"]),
    "UIEB": (["UIEB/raw-890/{}.png"], ["UIEB/reference-890/{}.png"]),
    "LOL-v2": (["v2/Low/low0000{}.png"], ["v2/Normal/normal0000{}.png"]),
    "REDS": (["REDS/train_blur/000/{}.png"], ["REDS/train_sharp/000/{}.png"]),
    "small copies": (["mine_train_LR_bicubic/X2/000{}x2.png"], ["mine_train_HR/000{}.png"]),
    "DPDD": (["train_c/source/{}.png"], ["train_c/target/{}.png"]),
    "RainDS": (["RainDS/raindrop/{}.png", "RainDS/rainstreak_raindrop/{}.png"], ["RainDS/gt/{}.png"]),
    "Outdoor-Rain": (["OR/in/im_000{}_s80_a04.png"], ["OR/gt/im_000{}.png"]),
    "composed words": (["RainyImages/{}.png"], ["NoRain/{}.png"]),
    "free of shadow": (["SRD/shadow/{}.jpg"], ["SRD/shadow_free/{}_free.jpg"]),
    "before and after": (["before/{}.jpg"], ["after/{}.jpg"]),
    "degraded below clean": (["some/noisy/{}.png"], ["some/{}.png"]),
    "composites": (["CDD/haze/{}.png", "CDD/low_haze/{}.png", "CDD/snow/{}.png"], ["CDD/clear/{}.png"]),
    "composites without a known one": (["CDD/low_snow/{}.png", "CDD/snow/{}.png"], ["CDD/clear/{}.png"]),
    "another blur": (["s/blur/{}.png", "s/blur_gamma/{}.png"], ["s/sharp/{}.png"]),
    "degraded alone": (["some/rainy_image/{}.png"], ["some/street/{}.png"]),
    "in one folder": (["O/0{}_outdoor_hazy.jpg"], ["O/0{}_outdoor_GT.jpg"]),
    "in one folder, of SIDD": (["S/0001/NOISY_SRGB_01{}.PNG"], ["S/0001/GT_SRGB_01{}.PNG"]),
    "in one folder, of PolyU": (["P/Canon_{}_Real.JPG"], ["P/Canon_{}_mean.JPG"]),
    "in one folder, one of them without a word": (["x/{}_lq.png"], ["x/{}.png"]),
    "a folder for each scene": (["s{}/input.png"], ["s{}/gt.png"]),
    "with and without": (["with_rain/{}.png"], ["without_rain/{}.png"]),
    "not so": (["haze/a{}.png"], ["no haze/{}.png"]),
    "with and without in the names": (["R/0{}_with_snow.png"], ["R/0{}_wo_snow.png"]),
    "more or less of it": (["DID/rain_heavy/{}.png"], ["DID/norain/{}.jpg"]),
    "one of them alone": (["DID/Rain_Light/{}.png"], ["paris/{}.jpg"]),
    "RICE": (["RICE1/cloudy_image/{}.png"], ["RICE1/label/{}.png"]),
}


@pytest.mark.parametrize("case", UNKNOWN_PAIRS)
@pytest.mark.parametrize("upper", [False, True])
def test_halves_of_pairs_that_are_not_known_are_refused_with_a_way_out(case: str, upper: bool, tmp_path: Path) -> None:
    patterns = [pattern for half in UNKNOWN_PAIRS[case] for pattern in half]
    build(tmp_path / "data", *(pattern.upper() if upper else pattern for pattern in patterns))
    photographs(tmp_path / "others", 2)
    for find in (training_tasks, tasks_to_test):
        settings = DataSettings(data=(tmp_path / "data",), test_data=(tmp_path / "others",))
        if find is tasks_to_test:
            settings = DataSettings(data=(tmp_path / "others",), test_data=(tmp_path / "data",))
        with pytest.raises(DataError, match=r"rename them; or give the folder of the clean ones alone"):
            find(settings)


@pytest.mark.parametrize("inner", ["LQ", "LQ/a", "data"])
def test_a_degraded_half_given_alone_is_refused(inner: str, tmp_path: Path) -> None:
    build(tmp_path / "set", f"{inner}/{{}}_rain.png", "gt/a/{}_clean.png")
    with pytest.raises(DataError, match=rf"{inner.partition('/')[0]} has (images of which|degraded)"):
        training_tasks(DataSettings(data=(tmp_path / "set" / inner,)))
    assert training_tasks(DataSettings(data=(tmp_path / "set" / "gt",), degradations=("rain",)))[0].degraded is None


CLEAN_ALONE = {
    "years": ["2019/IMG_{}.jpg", "2020/IMG_{}.jpg"],
    "the clean half": ["GT/{}.png"],
    "the clean half of DIV2K": ["DIV2K_train_HR/000{}.png"],
    "a folder called clean": ["clean/{}.png", "paris/DSC_77{}.jpg"],
    "a data set beside one": ["clean/0000{}.png", "WED/0000{}.bmp"],
    "tides": ["low_tide/{}.jpg", "high_tide/x{}.jpg"],
    "weather": ["snow/{}.jpg", "beach/IMG_{}.jpg", "in the dark/night{}.jpg"],
    "files with words": ["walks/dark_forest_{}.jpg", "walks/clear_lake_{}.jpg", "walks/snow.jpg", "walks/high.jpg"],
    "edited": ["phone/IMG_000{}.JPG", "phone/IMG_E000{}.JPG"],
    "data": ["data/source/{}.jpg"],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", CLEAN_ALONE)
def test_photographs_are_not_taken_for_halves(case: str, tmp_path: Path) -> None:
    paths = build(tmp_path / "mine", *CLEAN_ALONE[case])
    photographs(tmp_path / "others", 2)
    (task,) = training_tasks(
        DataSettings(data=(tmp_path / "mine",), test_data=(tmp_path / "others",), degradations=("noise25",))
    )
    assert set(task.clean) == paths


def test_halves_with_training_and_test_images_in_each_are_refused(tmp_path: Path) -> None:
    build(
        tmp_path / "GoPro", *(f"{half}/{split}/s/{{}}.png" for half in ("blur", "sharp") for split in ("train", "test"))
    )
    with pytest.raises(DataError, match=r"within each half.*train/blur, train/sharp"):
        training_tasks(DataSettings(data=(tmp_path,)))


def test_equal_names_pair_whatever_is_in_them(tmp_path: Path) -> None:
    names = ("scene_1_a", "scene_1_b", "7 of 9", "x_2", "10")
    for folder, half in (("RESIDE-6K", "hazy"), ("RESIDE-6K", "GT"), ("Rain100L", "rain"), ("Rain100L", "norain")):
        for i, name in enumerate(names):
            write(tmp_path / folder / half / f"{name}.{'png' if i % 2 else 'jpg'}", pixels(name, 8, 8))
    for task in training_tasks(DataSettings(data=(tmp_path,))):
        assert task.degraded is not None
        assert len(task.clean) == len(names)
        pairs = (task.files(i) for i in range(len(names)))
        assert all(degraded is not None and degraded.stem == clean.stem for degraded, clean in pairs)


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (["EUVP/trainA/{}.jpg", "EUVP/trainB/{}.jpg"], "trainA, trainB in .* have the same names of images"),
        (["some/{}.png", "some/jpeg10/{}.jpg"], "some, jpeg10 in .* have the same names of images"),
        (["S/a/{}.png", "S/b/{}.jpg", "S/a/3{}.png"], "folders a, b in .* have the same names of images"),
        (["some/{}.png", "some/3{}.png", "some/q/{}.jpg"], "some, q in .* have the same names of images"),
        (["H/rain/{}.png", "H/norain/{}.png", "H/{}.png"], "H has pairs, and 1.png, 2.png beside them, .*left out"),
        (["H/rain/{}.png", "H/norain/{}.png", "H/paris/a{}.png"], "H has pairs, and paris/ beside them, .*left out"),
        (
            ["GoPro/blur/{}.png", "GoPro/sharp/{}.png", "GoPro/blur_gamma/{}.png"],
            "called blur_gamma of GoPro is left out",
        ),
        (["GoPro/s/blur/{}.png", "GoPro/s/sharp/{}.png", "GoPro/mine/{}.png"], "called mine of GoPro is left out"),
        (["CBSD68/original/{}.png", "CBSD68/noisy25/{}.png"], "called noisy25 of CBSD68 is left out"),
    ],
)
def test_what_is_left_out_or_not_clear_is_named(patterns: list[str], words: str, tmp_path: Path) -> None:
    build(tmp_path / "data", *patterns)
    photographs(tmp_path / "others", 2)
    settings = DataSettings(data=(tmp_path / "others",), test_data=(tmp_path / "data",), degradations=("noise25",))
    with pytest.warns(HairWarning, match=words) as warned:
        tasks_to_test(settings)
    assert [one.filename for one in warned] == [__file__]


def test_image_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    photographs(tmp_path / "mine", 3)
    for name in ("a.NEF", "b.nef"):
        (tmp_path / "mine" / name).touch()
    with pytest.warns(
        HairWarning, match=r"mine: 2 images \(a.NEF, b.nef\) left out: files ending in .nef are not read"
    ):
        (task,) = training_tasks(DataSettings(data=(tmp_path / "mine",), degradations=("rain",)))
    assert {path.suffix for path in task.clean} == {".png"}
    (tmp_path / "mine" / "a.exr").touch()
    with pytest.warns(HairWarning) as warned:
        training_tasks(DataSettings(data=(tmp_path / "mine",), degradations=("rain",)))
    said = [str(one.message) for one in warned]
    assert [("(a.exr) left out: files ending in .exr" in one, "NEF" in one) for one in said] == [
        (True, False),
        (False, True),
    ]


def test_folders_whose_names_are_no_utf8(tmp_path: Path) -> None:
    mine = tmp_path / os.fsdecode(b"ph\xe9otos")
    photographs(tmp_path / "photos", 3)
    try:
        (tmp_path / "photos").rename(mine)
    except OSError:
        pytest.skip("names are text here")
    tasks = tasks_to_test(DataSettings(data=(mine,), degradations=("rain",)))
    assert [task.name.encode() for task in tasks] == [rb"ph\udce9otos rain"]


def test_folders_may_be_called_after_degradations_if_data_sets_are_in_them(tmp_path: Path) -> None:
    layouts.build("SOTS", tmp_path / "haze")
    layouts.build("Rain100L", tmp_path / "rain")
    tests = tasks_to_test(DataSettings(test_data=(tmp_path,)))
    assert {task.name for task in tests} == {"SOTS", "SOTS indoor", "Rain100L"}


# Settings.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hold_out", 1.0),
        ("hold_out", -0.1),
        ("hold_out", math.nan),
        ("patch_size", 0),
        ("image_cache", -1.0),
        ("image_cache", math.inf),
        ("degradations", ("fog",)),
        ("degradations", ("rain", "rain")),
    ],
)
def test_settings_that_are_not_accepted(field: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"`{field}` (is|has)"):
        DataSettings(**{field: value})  # type: ignore[arg-type]


def test_tasks_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    photographs(tmp_path, 3)
    tasks = training_tasks(DataSettings(data=(tmp_path,)))
    assert pickle.loads(pickle.dumps(tasks)) == tasks


def test_the_layouts_are_what_they_claim() -> None:
    # A guard for the tests above: pairs are distinct, and both halves occur.
    assert all(len(set(pairs)) == len(pairs) for pairs in LAYOUTS.values())
    assert {pair.split for pairs in LAYOUTS.values() for pair in pairs} == {"train", "test", "any"}
    assert isinstance(LAYOUTS["OTS"][0], Pair)
