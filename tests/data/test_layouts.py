"""Whole trees as people have them: each with the images in it that are learnt from and tested on, and stray files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from layouts import pixels, write

from hairify.data import datasets
from hairify.data.datasets import DataSettings, Task, training_tasks
from hairify.errors import DataError, HairWarning

tasks_to_test = datasets.test_tasks  # under a name that pytest does not collect


@dataclass(frozen=True)
class Tree:
    """Degraded and clean images, below the root, by the name of their task; where they are the same, photographs."""

    learnt: Mapping[str, list[tuple[str, str]]]
    tested: Mapping[str, list[tuple[str, str]]]
    stray: tuple[str, ...] = ()
    notes: str = ""  # of which one says this


def alone(*names: str) -> list[tuple[str, str]]:
    return [(name, name) for name in names]


def numbered(degraded: str, clean: str, *numbers: object) -> list[tuple[str, str]]:
    return [(degraded.format(n), clean.format(n)) for n in numbers]


CDD = {
    "low": "low_light",
    "haze": "haze",
    "haze_rain": "haze+rain",
    "low_haze_snow": "low_light+haze+snow",
    "snow": "snow",
}

TREES = {
    "PromptIR": Tree(
        learnt={
            "noise25": alone("data/Train/Denoise/100075.jpg", "data/Train/Denoise/00001.bmp"),
            "rain": numbered("data/Train/Derain/rainy/rain-{}.png", "data/Train/Derain/gt/norain-{}.png", 1, 2, 10),
            "haze": [
                (f"data/Train/Dehaze/synthetic/part{i}/{n:04}_0.8_0.{i}.jpg", f"data/Train/Dehaze/original/{n:04}.jpg")
                for i in (1, 2)
                for n in (25, 31)
            ],
        },
        tested={
            "BSD68 noise25": alone("test/denoise/bsd68/test001.jpg"),
            "Urban100 noise25": alone("test/denoise/urban100/img_001.png"),
            "Rain100L": numbered("test/derain/Rain100L/input/{}.png", "test/derain/Rain100L/target/{}.png", 1, 2),
            "SOTS": numbered("test/dehaze/input/{0}_0.8_0.2.jpg", "test/dehaze/target/{0}.png", "0001", "0002"),
        },
        stray=("data/Train/Derain/rainy/rainTrain.txt", "data_dir/noisy/denoise.txt", "demo/README.md"),
    ),
    "AdaIR": Tree(
        learnt={
            "noise25": alone("data/Train/Denoise/100075.jpg"),
            "rain": numbered("data/Train/Derain/rainy/rain-{}.png", "data/Train/Derain/gt/norain-{}.png", 1, 2),
            "haze": numbered(
                "data/Train/Dehaze/synthetic/{0}_1_0.2.jpg", "data/Train/Dehaze/original/{0}.jpg", "0025", "0031"
            ),
            "blur": numbered(
                "data/Train/Deblur/blur/GOPR0372_07_00-00004{}.png",
                "data/Train/Deblur/sharp/GOPR0372_07_00-00004{}.png",
                7,
                8,
            ),
            "low_light": numbered("data/Train/Enhance/low/{}.png", "data/Train/Enhance/gt/{}.png", 2, 5),
        },
        tested={
            "CBSD68 noise25": alone("test/denoise/cbsd68/3096.png"),
            "Rain100L": numbered("test/derain/Rain100L/input/{}.png", "test/derain/Rain100L/target/{}.png", 1, 2),
            "SOTS": numbered("test/dehaze/input/{0}_0.8_0.2.jpg", "test/dehaze/target/{0}.png", "0001"),
            "GoPro": numbered("test/deblur/gopro/input/G-{}.png", "test/deblur/gopro/target/G-{}.png", 1, 2),
            "LOL-v1": numbered("test/enhance/lol/input/{}.png", "test/enhance/lol/target/{}.png", 1, 22),
        },
        stray=("data/Train/Deblur/list.txt",),
    ),
    "a test set of haze that is not SOTS": Tree(
        learnt={},
        tested={"Dehaze": numbered("test/dehaze/input/a{}.png", "test/dehaze/target/a{}.png", 1, 2)},
    ),
    "PReNet side by side": Tree(
        learnt={"rain": numbered("RainTrainL/rain-{}.png", "RainTrainL/norain-{}.png", 1, 2)},
        tested={"Rain100L": numbered("Rain100L/rainy/rain-{}.png", "Rain100L/norain-{}.png", "001", "100")},
    ),
    "PReNet": Tree(
        learnt={"rain": numbered("train/RainTrainL/rain-{}.png", "train/RainTrainL/norain-{}.png", 1, 2, 200)},
        tested={
            "Rain100L": numbered("test/Rain100L/rainy/rain-{}.png", "test/Rain100L/norain-{}.png", "001", "100"),
            "Rain100H": numbered("test/Rain100H/rainy/rain-{}.png", "test/Rain100H/norain-{}.png", "001", "002"),
        },
        stray=("train/RainTrainL/rainstreak-1.png", "train/RainTrainL/readme.txt"),
        notes="RainTrainL has pairs, and rainstreak-1.png beside them, which are left out",
    ),
    "Rain13K and its tests": Tree(
        learnt={
            "rain": numbered(
                "Deraining/Datasets/train/Rain13K/input/{}.jpg", "Deraining/Datasets/train/Rain13K/target/{}.jpg", 1, 2
            )
        },
        tested={
            name: numbered(
                f"Deraining/Datasets/test/{name}/input/{{}}.png",
                f"Deraining/Datasets/test/{name}/target/{{}}.png",
                1,
                2,
            )
            for name in ("Rain100L", "Rain100H", "Test100", "Test1200", "Test2800")
        },
        stray=("Deraining/README.md",),
    ),
    "clean sets": Tree(
        learnt={
            "noise25": alone("DIV2K/DIV2K_train_HR/0001.png", "Flickr2K/Flickr2K_HR/000001.png", "WED/00001.bmp"),
            "jpeg": alone("DIV2K/DIV2K_train_HR/0001.png", "Flickr2K/Flickr2K_HR/000001.png"),
        },
        tested={
            "DIV2K noise25": alone("DIV2K/DIV2K_valid_HR/0801.png"),
            "DIV2K jpeg": alone("DIV2K/DIV2K_valid_HR/0801.png"),
            "Kodak24 noise25": alone("Kodak24/kodim01.png"),
            "McMaster noise25": alone("McMaster/1.tif"),
        },
        stray=(
            "DIV2K/DIV2K_train_LR_bicubic/X2/0001x2.png",
            "DIV2K/DIV2K_valid_LR_bicubic/X4/0801x4.png",
            "Flickr2K/Flickr2K_LR_bicubic/X2/000001x2.png",
        ),
        notes="called Flickr2K_LR_bicubic of a clean set, small copies by its name, is left out",
    ),
    "CDD-11": Tree(
        learnt={
            degradation: numbered(f"CDD-11_train/{half}/{{}}.png", "CDD-11_train/clear/{}.png", "00001", "00002")
            for half, degradation in CDD.items()
        },
        tested={
            f"CDD-11 {half}": numbered(f"CDD-11_test/{half}/{{}}.png", "CDD-11_test/clear/{}.png", "00003", "00004")
            for half in CDD
        },
        stray=("CDD-11_train/depth/00001.png",),
        notes="called depth of CDD-11 is left out",
    ),
    "Snow100K": Tree(
        learnt={
            "snow": numbered("Snow100K-training/all/synthetic/b_{}.jpg", "Snow100K-training/all/gt/b_{}.jpg", 1, 2)
        },
        tested={
            f"Snow100K-{size}": numbered(
                f"media/jdway/GameSSD/overlapping/test/Snow100K-{size}/synthetic/w_{{}}.jpg",
                f"media/jdway/GameSSD/overlapping/test/Snow100K-{size}/gt/w_{{}}.jpg",
                1,
                2,
            )
            for size in "SML"
        },
        stray=("Snow100K-training/all/mask/b_1.jpg",),
        notes="called mask of Snow100K is left out",
    ),
    "RainDrop": Tree(
        learnt={"raindrops": numbered("RainDrop/train/data/{}_rain.png", "RainDrop/train/gt/{}_clean.png", 0, 1, 860)},
        tested={
            f"RainDrop test_{ab}": numbered(
                f"RainDrop/test_{ab}/data/{{}}_rain.png", f"RainDrop/test_{ab}/gt/{{}}_clean.png", 0, 57
            )
            for ab in "ab"
        },
        stray=("RainDrop/train/preview/preview.txt",),
    ),
}


def grow(tree: Tree, root: Path) -> Path:
    for pairs in (*tree.learnt.values(), *tree.tested.values()):
        for degraded, clean in pairs:
            write(root / clean, pixels(clean, 8, 8))
            if degraded != clean:
                write(root / degraded, pixels(degraded, 8, 8))
    for name in tree.stray:
        if name.endswith((".txt", ".md")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("no image")
        else:
            write(root / name, pixels(name, 8, 8))
    return root


def found(tasks: list[Task], root: Path) -> dict[str, set[tuple[str, str]]]:
    names: dict[str, set[tuple[str, str]]] = {}
    for task in tasks:
        files = [task.files(i) for i in range(len(task.clean))]
        below = [
            [(path or clean).relative_to(root).as_posix() for path in (degraded, clean)] for degraded, clean in files
        ]
        names[task.name] = {(degraded, clean) for degraded, clean in below}
        assert len(names[task.name]) == len(files)
    return names


@pytest.mark.parametrize("name", TREES)
def test_trees_are_found_whole_and_nothing_else(name: str, tmp_path: Path) -> None:
    tree = TREES[name]
    settings = DataSettings(data=(grow(tree, tmp_path),), degradations=("noise25",) + ("jpeg",) * ("clean" in name))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tests = tasks_to_test(settings)
        if tree.learnt:
            assert found(training_tasks(settings), tmp_path) == {
                name: set(those) for name, those in tree.learnt.items()
            }
    assert found(tests, tmp_path) == {name: set(those) for name, those in tree.tested.items()}
    assert any(tree.notes in str(one.message) for one in said) if tree.notes else not said


def test_a_degraded_image_of_a_tree_that_lacks_its_partner_is_named(tmp_path: Path) -> None:
    grow(TREES["PromptIR"], tmp_path)
    (tmp_path / "data/Train/Derain/gt/norain-2.png").unlink()
    with pytest.raises(DataError, match=r"Derain is incomplete: .*gt has no clean image of 1 image \(rain-2.png\)"):
        training_tasks(DataSettings(data=(tmp_path,), degradations=("noise25",)))


# Real and synthesised.


def test_where_there_are_real_pairs_none_are_synthesised_unless_asked(tmp_path: Path) -> None:
    grow(TREES["RainDrop"], tmp_path / "sets")
    for n in range(4):
        write(tmp_path / "photographs" / f"{n}.png", pixels(str(n), 8, 8))
    folders = (tmp_path / "sets", tmp_path / "photographs")
    settings = DataSettings(data=folders, degradations=("noise25", "raindrops"), hold_out=0.25)
    with pytest.warns(HairWarning, match="real pairs of raindrops, so none are synthesised.*`mix_synthetic` does both"):
        noise, drops = training_tasks(settings)
    assert len(noise.clean) == 3
    assert drops.degraded is not None
    assert len(drops.degraded) == 3
    assert None not in drops.degraded
    with pytest.warns(HairWarning, match="real pairs of raindrops"):
        names = [task.name for task in tasks_to_test(settings)]
    assert names == ["RainDrop test_a", "RainDrop test_b", "photographs noise25"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixed = DataSettings(data=folders, degradations=("raindrops",), hold_out=0.25, mix_synthetic=True)
        (drops,) = training_tasks(mixed)
        assert [task.name for task in tasks_to_test(mixed)][2:] == ["photographs raindrops"]
    assert drops.degraded is not None
    assert drops.degraded.count(None) == 3
    assert len(drops.degraded) == 6


# Photographs of other kinds.

SCANS = {
    "patients and well ones": (["chest/NORMAL/{}.jpg", "chest/PNEUMONIA/{}.jpg"], []),
    "images and masks": (["brain/images/{}.png"], ["brain/masks/{}.png"]),
    "masks beside images": (["bus/benign ({}).png", "bus/malignant ({}).png"], ["bus/benign ({})_mask.png"]),
    "slices": (["ct/head/slice{}.png", "mri/T1/{}.tif", "mri/reference/x{}.tif"], []),
    "originals and copies": (["contracts/originals/{}.png", "contracts/copies/{}.png"], []),
    "labels": (["forms/labels/page-{}.tif", "forms/letters/page-{}.tif", "forms/receipts/r{}.jpg"], []),
    "a few that were edited": (
        [*(f"letters/{n}{{}}.jpg" for n in "abcd"), "letters/x_{}.jpg"],
        ["letters/x_{}_lq.jpg"],
    ),
}


@pytest.mark.parametrize("case", SCANS)
@pytest.mark.filterwarnings("ignore::hairify.errors.HairWarning")
def test_medical_and_document_scans_are_no_error(case: str, tmp_path: Path) -> None:
    taken, left = ({tmp_path / one.format(n) for one in patterns for n in (1, 2)} for patterns in SCANS[case])
    for path in (*taken, *left):
        write(path, pixels(path.name, 8, 8))
    settings = DataSettings(data=(tmp_path,), degradations=("noise25",))
    (learnt,), (tested,) = training_tasks(settings), tasks_to_test(settings)
    assert {*learnt.clean, *tested.clean} == taken


def test_what_is_left_out_of_scans_is_named(tmp_path: Path) -> None:
    for case in ("images and masks", "masks beside images", "a few that were edited"):
        for pattern in (*SCANS[case][0], *SCANS[case][1]):
            for n in (1, 2):
                write(tmp_path / pattern.format(n), pixels(pattern, 8, 8))
    with pytest.warns(HairWarning) as said:
        training_tasks(DataSettings(data=(tmp_path,), degradations=("noise25",)))
    text = " ".join(str(one.message) for one in said)
    assert "brain/masks has maps or masks by the name of masks, which are no photographs: left out" in text
    assert "bus: 2 images (benign (1)_mask.png, benign (2)_mask.png) left out: maps or masks" in text
    assert "letters: 2 images (x_1_lq.jpg, x_2_lq.jpg) left out: by their names, others show the same" in text


def test_masks_given_alone_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "masks" / "1.png", pixels("1", 8, 8))
    with pytest.raises(DataError, match="masks has maps or masks by its name"):
        training_tasks(DataSettings(data=(tmp_path / "masks",)))
    with pytest.raises(DataError, match=r"has nothing that can be used: .*has maps or masks by the name of masks"):
        training_tasks(DataSettings(data=(tmp_path,)))
