"""Pairs of folders that are named by hand: which image belongs to which, whatever they are called."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from layouts import photographs, pixels, write

from hairify.cli.options import make_settings, read_tables, to_toml
from hairify.data import datasets
from hairify.data.datasets import DataSettings, training_tasks
from hairify.errors import DataError, HairWarning, OptionError

tasks_to_test = datasets.test_tasks  # under a name that pytest does not collect

# Degraded names, those of their clean ones, and what the note says.
MATCHES = {
    "equal names": ([("a", "a"), ("b_1", "b_1"), ("10", "10"), ("1_2", "1_2")], ""),
    "equal names in upper case": ([("A", "a"), ("B", "b")], ""),
    "prefixes": ([(f"rain-{n}", f"norain-{n}") for n in (1, 2, 10, 100)], "but for `rain` and `norain`"),
    "suffixes": ([(f"{x}_LQ", f"{x}_GT") for x in ("cat", "dog_2", "3")], "but for `lq` and `gt`"),
    "a suffix of one half": ([(f"im{n}x2", f"im{n}") for n in (1, 2, 3)], "the degraded ones go on"),
    "both": ([(f"hazy_{n}_in", f"clear_{n}_out") for n in (7, 8)], "`hazy` with `in` and `clear` with `out`"),
    "a shared word before the number": ([(f"a_b_{n}_lq", f"a_b_{n}") for n in (1, 2)], "but for `_lq` and nothing"),
    "one pair": ([("photo_low", "photo_high")], "but for `low` and `high`"),
    "many of one": (
        [(f"{n:04}_{a}_{b}", f"{n:04}") for n in (1, 2, 12) for a, b in ((0.8, 0.2), (1, 0.16))],
        "the degraded ones go on",
    ),
    "many of one, some of whose names begin alike": ([("1_5", "1"), ("1_2_5", "1_2"), ("12_5", "12")], "go on"),
    "many of one, behind a prefix": (
        [(f"hazy{n}_{i}", f"clear{n}") for n in (1, 2) for i in (1, 2)],
        "`hazy` and `clear`",
    ),
    "numbers by value": ([(f"rain-{n:03}", f"norain-{n}") for n in (1, 2, 10)], "numbers by their value"),
    "in folders": ([("s1/blur_1", "s1/sharp_1"), ("s2/blur_1", "s2/sharp_1")], "but for `blur` and `sharp`"),
    "in folders of one half": ([("part1/0001_a", "0001"), ("part2/0002_b", "0002")], "go on"),
}


def folders(root: Path, pairs: list[tuple[str, str]], suffix: str = ".png") -> str:
    for degraded, clean in pairs:
        write(root / "x y" / f"{degraded}{suffix}", pixels(degraded, 8, 8))
        write(root / "z" / f"{clean}.jpg", pixels(clean, 8, 8))
    return f"fog={root / 'x y'}/,{root / 'z'}"


@pytest.mark.parametrize("case", MATCHES)
def test_partners_are_found(case: str, tmp_path: Path) -> None:
    pairs, words = MATCHES[case]
    given = folders(tmp_path, pairs)
    tested = folders(tmp_path / "tests", [("t", "t")])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        (task,) = training_tasks(DataSettings(pairs=(given,), test_pairs=(tested,)))
    got = set()
    for i in range(len(task.clean)):
        degraded, clean = task.files(i)
        assert degraded is not None
        halves = (degraded.relative_to(tmp_path / "x y"), clean.relative_to(tmp_path / "z"))
        got.add(tuple(half.with_suffix("").as_posix() for half in halves))
    assert got == set(pairs)
    assert [str(one.message) for one in said] == [] if not words else words in str(said[0].message)
    if words:
        assert f"{len(pairs)} pairs of fog by equal names" in str(said[0].message)
        assert any(f"{Path(d).name}.png ↔ {Path(c).name}.jpg" in str(said[0].message) for d, c in pairs)


def test_what_has_no_partner_is_named_and_left_out(tmp_path: Path) -> None:
    given = folders(tmp_path, [("a_lq", "a"), ("b_lq", "b"), ("c_lq", "c")])
    write(tmp_path / "x y" / "d_lq.png", pixels("d", 8, 8))
    write(tmp_path / "z" / "e.png", pixels("e", 8, 8))
    tested = folders(tmp_path / "tests", [("t", "t")])
    with pytest.warns(HairWarning) as said:
        (task,) = training_tasks(DataSettings(pairs=(given,), test_pairs=(tested,)))
    assert {path.stem for path in task.clean} == {"a", "b", "c"}
    text = " ".join(str(one.message) for one in said)
    assert "x y: 1 image (d_lq.png) left out: without a partner" in text
    assert "z: 1 image (e.png) left out: without a partner" in text


def test_names_that_do_not_match_are_shown(tmp_path: Path) -> None:
    given = folders(tmp_path, [("a", "b"), ("c", "d"), ("e", "f")])
    words = r"names in .*x y are not those in .*z\. At best.*0 of 3.*\(a.png, c.png, e.png\) have none; clean .*b.jpg"
    with pytest.raises(DataError, match=words):
        training_tasks(DataSettings(pairs=(given,)))


def test_names_that_match_in_several_ways_are_refused_and_shown(tmp_path: Path) -> None:
    # Without p- in front or without -q behind: each is as good, and they pair differently.
    for degraded in ("p-x-q", "p-y-q"):
        write(tmp_path / "x y" / f"{degraded}.png", pixels(degraded, 8, 8))
    for clean in ("x-q", "p-x", "y-q", "p-y"):
        write(tmp_path / "z" / f"{clean}.png", pixels(clean, 8, 8))
    with pytest.raises(DataError, match=r"match in several ways: p-x-q.png belongs to (p-x|x-q).png by .*, and to"):
        training_tasks(DataSettings(pairs=(f"fog={tmp_path / 'x y'},{tmp_path / 'z'}",)))


def test_a_share_of_the_scenes_is_held_out_where_there_is_no_test_data(tmp_path: Path) -> None:
    given = folders(tmp_path, [(f"{n}_{i}", f"{n}") for n in range(10) for i in (1, 2, 3)])
    settings = DataSettings(pairs=(given,), hold_out=0.2)
    with pytest.warns(HairWarning):
        (learnt,), (tested,) = training_tasks(settings), tasks_to_test(settings)
    assert (len(learnt.clean), len(tested.clean)) == (24, 6)
    assert not {*learnt.clean} & {*tested.clean}
    assert tested.name == f"{tmp_path.name} fog"


def test_named_halves_within_the_data_are_nothing_else(tmp_path: Path) -> None:
    photographs(tmp_path / "holiday", 3)
    for n in range(4):
        for half in ("input", "target"):
            write(tmp_path / "mine" / half / f"{n}.png", pixels(f"{half}{n}", 8, 8))
    with pytest.raises(DataError, match="nothing says what degrades them"):
        training_tasks(DataSettings(data=(tmp_path,)))
    given = f"low_light={tmp_path}/mine/input,{tmp_path}/mine/target"
    noise, dark = training_tasks(DataSettings(data=(tmp_path,), pairs=(given,), degradations=("noise25",)))
    assert (noise.name, dark.name) == ("noise25", "low_light")
    assert {path.parent.name for path in noise.clean} == {"holiday"}
    tested = DataSettings(data=(tmp_path,), test_pairs=(given,), degradations=("noise25",))
    assert [task.name for task in training_tasks(tested)] == ["noise25"]
    assert [task.name for task in tasks_to_test(tested)] == ["mine low_light"]


@pytest.mark.parametrize("given", ["fog", "fog=", "fog=a", "=a,b", "fog=a,", "fog=,"])
def test_what_is_no_pair_of_folders(given: str) -> None:
    with pytest.raises(OptionError, match=r"`pairs` has .*; accepted is NAME=DEGRADED,CLEAN.*rain=rainy/,clean/"):
        DataSettings(pairs=(given,))
    with pytest.raises(OptionError, match=r"`test_pairs` has"):
        DataSettings(test_pairs=(given,))


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        training_tasks(DataSettings(pairs=(f"fog={tmp_path}/nowhere,{tmp_path}/a",)))
    with pytest.raises(DataError, match=r"both halves are .*a; give a folder for each"):
        training_tasks(DataSettings(pairs=(f"fog={tmp_path}/a,{tmp_path}/a/",)))
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"/a has no images"):
        training_tasks(DataSettings(pairs=(f"fog={tmp_path}/a,{tmp_path}/b",)))


def test_commas_in_the_names_of_folders(tmp_path: Path) -> None:
    for half in ("a, b", "c,d"):
        photographs(tmp_path / half, 2)
    (task,) = training_tasks(DataSettings(pairs=(f"fog={tmp_path}/a, b,{tmp_path}/c,d",)))
    assert task.clean[0].parent.name == "c,d"


def test_pairs_stand_in_configurations(tmp_path: Path) -> None:
    settings = make_settings(DataSettings, {}, {"pairs": ["fog=a,b", "rain=c,d"]})
    assert settings.pairs == ("fog=a,b", "rain=c,d")
    (tmp_path / "config.toml").write_text(to_toml(settings))
    assert make_settings(DataSettings, read_tables(tmp_path / "config.toml")["data"], {}) == settings
