"""Second stages: what is frozen stays, differences are paired, and finished stages are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from benchmarks import second_stages
from benchmarks.second_stages import ALL, ARMS, FIRST, INPUT, NOISES, TOGETHER, as_markdown, by_degradation, main


@pytest.mark.slow
def test_the_stages_are_what_they_are_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_stages, "_CROP", 64)
    words = [
        "--output",
        str(tmp_path),
        "--seeds",
        "1",
        "--before",
        "3",
        "--steps",
        "2",
        "--width",
        "4",
        "--patch",
        "32",
    ]
    assert main([*words, "--batch", "4"]) == 0
    weights = {name: safetensors.torch.load_file(tmp_path / "0" / folder(name) / "model.safetensors") for name in ARMS}
    first = safetensors.torch.load_file(tmp_path / "0" / "denoiser" / "model.safetensors")
    for name, arm in ARMS.items():
        moved = {key.partition(".")[0] for key, value in weights[name].items() if not torch.equal(value, first[key])}
        assert (("base" in moved), ("boxes" in moved)) == (arm.frozen != "base", arm.frozen != "boxes"), name
    table = (tmp_path / "second_stages.md").read_text()
    assert all(f"| {name} |" in table for name in (INPUT, FIRST, *ARMS, TOGETHER))
    written = (tmp_path / "0" / "denoiser" / "model.safetensors").stat().st_mtime_ns
    assert main([*words, "--batch", "4"]) == 0
    assert (tmp_path / "0" / "denoiser" / "model.safetensors").stat().st_mtime_ns == written
    assert main([*words, "--batch", "6"]) == 2


def folder(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def test_scores_are_means_and_differences_are_paired_over_seeds() -> None:
    names = [name for name in ALL for _ in range(2)]
    scores = by_degradation(torch.tensor([30.0, 32, 26, 28, 20, 22, 11, 13]), names)
    assert scores == {"noise15": 31, "noise25": 27, "noise50": 21, "haze": 12, "noise": pytest.approx(79 / 3)}
    results = []
    for level, gain in ((0.0, 1.0), (10.0, 3.0)):  # seeds that differ by much, and gains that do not
        start = dict.fromkeys((*NOISES, "noise", "haze"), 20.0 + level)
        ended = {name: value + gain for name, value in start.items()}
        results.append({INPUT: start, FIRST: start, TOGETHER: ended} | dict.fromkeys(ARMS, ended))
    rows = as_markdown(results, second_stages.Recipe()).splitlines()
    assert f"| {FIRST} | 25.00 | 25.00 | 25.00 | 25.00 | 25.00 |" in rows
    assert f"| {TOGETHER} " + "| 27.00 (+2.00 ± 1.41) " * 5 + "|" in rows
