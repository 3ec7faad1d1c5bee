"""The benchmark of the tool runs, compares what it says it compares, and reports it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.tool import __main__ as command
from benchmarks.tool import loading, restoring, training
from benchmarks.tool.rounds import Row
from hairify.models import unet
from hairify.restoring import TilingSettings, restore_tiled
from hairify.training import TrainingSettings, train


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (training, restoring):
        monkeypatch.setattr(module, "NETWORKS", {"unet": unet})
    monkeypatch.setattr(restoring, "SIDES", (72, 96))
    monkeypatch.setattr(restoring, "TILES", (64,))
    monkeypatch.setattr(loading, "SIDES", (72, 96))


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_quick_run_writes_all(tmp_path: Path) -> None:
    assert command.main(["--quick", "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found.keys() == {"machine", *command.PARTS}
    for part in command.PARTS:
        assert all(row["rate"] > 0 for row in found[part])
    assert all(row["share"] > 0 for row in (*found["training"], *found["restoring"]))
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert all(f"## {part.capitalize()}" in text for part in command.PARTS)


def test_the_bare_loop_learns_what_ours_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "PATCH", 16)
    settings = TrainingSettings(
        steps=4, batch_size=training.BATCH, workers=0, cpu=True, ema_decay=0, log_with=("none",), final_epochs=0
    )
    torch.manual_seed(0)
    network, ours = unet(), unet()
    ours.load_state_dict(network.state_dict())
    assert len([*training.bare_steps(network, settings)]) == 4
    done = train(ours, training.samples(), settings, output=tmp_path / "run")
    for bare, other in zip(network.parameters(), done.model.parameters(), strict=True):
        assert torch.allclose(bare, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("tile", [64, 96, 512])
def test_the_bare_network_gets_the_same_tiles(tile: int) -> None:
    seen: list[torch.Tensor] = []

    class Seeing(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return images

    image = torch.rand(1, 3, 136, 200)
    restore_tiled(Seeing(), image, TilingSettings(tile, restoring.OVERLAP), restoring.MULTIPLE)
    tiles = restoring.tiles_of(image, tile)
    assert len(tiles) == len(seen)
    assert all(torch.equal(one, other) for one, other in zip(tiles, seen, strict=True))


def test_shares_are_those_of_single_rounds() -> None:
    row = Row("any", "steps", 2, ours=[1.0, 2.0, 4.0], bare=[1.0, 1.0, 3.0])
    assert (row.rate, row.bare_rate, row.share) == (1.0, 2.0, 0.75)
