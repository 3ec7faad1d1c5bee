"""Res-HAIR, made by `hairify`, against the published one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reference import SMALL, as_published, largest_error, published_state

from hairify.errors import CheckpointError
from hairify.models import load_published, res_hair, restormer


@pytest.mark.slow
def test_it_computes_what_the_published_network_computes() -> None:
    hair = load_published(published_state("res_hair"))
    assert sum(p.numel() for p in hair.parameters()) == 28_559_846
    assert largest_error(hair, "res_hair") < 1e-9


@pytest.mark.slow
def test_published_size_and_levels() -> None:
    hair = res_hair()
    assert sum(p.numel() for p in hair.parameters()) == 28_559_846
    assert sum(p.numel() for p in hair.dac.parameters()) == 1_457_160
    assert {level.name: level.box_size for level in hair.plan.levels} == {
        "latent": 9,
        "decoder_level3": 6,
        "decoder_level2": 7,
        "decoder_level1": 5,
        "refinement": 5,
    }


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_checkpoint_file_of_any_configuration_loads(tmp_path: Path, wrapped: bool) -> None:
    hair = res_hair(**SMALL, init="random").eval()
    state = as_published(hair)
    checkpoint = {"state_dict": {f"net.{k}": v for k, v in state.items()}, "epoch": 3} if wrapped else state
    torch.save(checkpoint, tmp_path / "published.ckpt")
    loaded = load_published(tmp_path / "published.ckpt")
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(x), hair(x))


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.ckpt").write_bytes(b"not a checkpoint")
    for source, text in [
        (tmp_path / "noise.ckpt", "cannot be read"),
        (tmp_path / "absent.ckpt", "cannot be read"),
        ({"epoch": 3}, "no state_dict"),
        ({"conv.weight": torch.zeros(1)}, "not one of the published Res-HAIR"),
        (restormer(dim=8, num_blocks=(1, 1, 1, 1)).state_dict(), "not one of the published Res-HAIR"),
    ]:
        with pytest.raises(CheckpointError, match=text):
            load_published(source)
