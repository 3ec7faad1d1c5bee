"""`hairify data`: everything in folders is listed, how it is read, and what was not understood."""

from __future__ import annotations

import json
from pathlib import Path

import layouts
import numpy as np
import pytest
import webdataset
from layouts import photographs, pixels, write
from PIL import Image

from hairify.cli import main
from hairify.data._preview import contact_sheet
from hairify.data.datasets import Task


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = main(["data", *map(str, arguments)])
    return status, " ".join(capsys.readouterr().out.split())


def test_it_lists_what_was_found_and_how_it_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("Rain100L", "SOTS", "CBSD68"):
        layouts.build(name, tmp_path / "sets")
    photographs(tmp_path / "holiday", 3)
    status, out = said(capsys, tmp_path / "sets", tmp_path / "holiday", "--degradations", "noise25,rain")
    assert status == 0
    assert "Rain100L (training half) in " in out
    assert "2 pairs of rain, by the first number in their names, such as rain-1.png ↔ norain-1.png" in out
    assert "SOTS indoor (test half)" in out
    assert "4 pairs of haze, by what stands before _ in their names, such as 1400_1.png ↔ 1400.png" in out
    assert "CBSD68 (test half)" in out
    assert "2 clean photographs, for noise, such as 0000.png" in out
    assert "3 clean photographs, for any degradation, such as 000.png" in out
    assert "training noise25 (2), rain (2)" in out
    assert "tests CBSD68 noise25 (2), Rain100L (3), SOTS indoor (4), SOTS (2), holiday noise25 (1)" in out
    assert (
        "note There are real pairs of rain, so none are synthesised from photographs; --mix-synthetic does both" in out
    )
    assert "note What is in folders called noisy25 of CBSD68 is left out." in out
    assert "not understood" not in out


def test_what_is_not_understood_keeps_from_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.build("Rain100L", tmp_path)
    for half in ("input", "target"):
        photographs(tmp_path / "mine" / half, 2)
    layouts.build("GoPro", tmp_path)
    (tmp_path / "GOPRO_Large/test/GOPR0384_11_00/sharp/000001.png").unlink()
    status, out = said(capsys, tmp_path, "--json")
    assert status == 1
    found = json.loads(out)
    assert [one["name"] for one in found["found"]] == ["GoPro", "GoPro", "Rain100L", "Rain100L"]
    first, second = found["not_understood"]
    assert "has no clean image of 1 image (000001.png)" in first
    assert "mine has pairs in `input` and `target`, and nothing says what degrades them" in second
    assert found["training"] == []
    status, out = said(capsys, tmp_path)
    assert status == 1
    assert out.count("not understood") == 2
    assert "or name them by --pairs: haze=" in out


def test_named_pairs_and_test_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(4):
        write(tmp_path / "a" / f"{n}_lq.png", pixels(str(n)))
        write(tmp_path / "b" / f"{n}.png", pixels(str(n)))
    photographs(tmp_path / "others", 1)
    pairs = f"fog={tmp_path}/a,{tmp_path}/b"
    tests = ("--test-data", tmp_path / "others", "--degradations", "jpeg")
    status, out = said(capsys, "--pairs", pairs, *tests, "--json")
    assert status == 0
    found = json.loads(out)
    assert found["training"] == [{"name": "fog", "degradation": "fog", "images": 4, "pairs": 4}]
    assert found["tests"] == [{"name": "others jpeg", "degradation": "jpeg", "images": 1, "pairs": 0}]
    assert found["found"][0]["read_as"] == "pairs of fog, by equal names, but for `_lq` and nothing"
    assert found["found"][0]["first"] == ["0_lq.png", "0.png"]
    assert any("4 pairs of fog" in note for note in found["notes"])
    assert said(capsys, "--pairs", f"fog={tmp_path}/a,{tmp_path}/nowhere")[0] == 1
    assert said(capsys, "--pairs", "fog")[0] == 2


def test_nothing_given(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = said(capsys)
    assert (status, out) == (0, "Nothing to look at; give folders, --pairs or --shards.")


def test_a_sheet_shows_patches_degraded_beside_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.build("GoPro", tmp_path)  # degraded images are negatives
    photographs(tmp_path / "holiday", 3)
    sheet = tmp_path / "sheet.png"
    status, out = said(capsys, tmp_path, "--preview", sheet, "--degradations", "noise0", "--patch-size", "32")
    assert status == 0
    assert f"Patches of each degradation are in {sheet}" in out
    with Image.open(sheet) as opened:
        picture = np.asarray(opened).astype(int)
    assert picture.shape == (8 + 2 * (32 + 40), 8 + 4 * 80, 3)
    for row, negative in ((0, False), (1, True)):
        top = 8 + row * 72 + 16
        for column in range(4):
            left = 8 + column * 80
            degraded, clean = (picture[top : top + 32, at : at + 32] for at in (left, left + 33))
            assert clean.std() > 10
            wanted = 255 - clean if negative else clean
            assert np.abs(degraded - wanted).max() <= 3
    assert main(["data", str(tmp_path), "--preview", str(tmp_path / "sheet.xyz")]) == 1


def test_a_sheet_says_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    plain = contact_sheet([], 32)
    sheet = contact_sheet([Task("noise25", "noise25", (tmp_path / "broken.png",), None)], 32)
    assert sheet.height == plain.height + 72
    red = np.asarray(sheet).reshape(-1, 3)
    assert ((red[:, 0] > 200) & (red[:, 1:] < 100).all(axis=1)).any()


def test_shards_are_listed_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        with webdataset.TarWriter(str(tmp_path / f"s-{i}.tar")) as sink:
            for n in range(3):
                path = write(tmp_path / "one.png", pixels(f"{i}{n}"))
                sink.write({"__key__": f"{i}{n}", "png": path.read_bytes()})
    pattern, sheet = f"{tmp_path}/s-{{0..1}}.tar", tmp_path / "sheet.png"
    status, out = said(capsys, "--shards", pattern, "--degradations", "jpeg", "--preview", sheet, "--patch-size", "32")
    assert status == 0
    assert f"{pattern}: 2 shards of 3 clean photographs each" in out
    assert "training jpeg in shards (6)" in out
    assert "No images to test on: found none" in out
    assert sheet.exists()
    status, out = said(capsys, "--shards", f"rain={pattern}", "--json")
    assert status == 1
    assert "leave out the name of a degradation" in json.loads(out)["not_understood"][0]
