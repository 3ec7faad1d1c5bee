"""Restormer against the published one."""

from __future__ import annotations

import pytest
import torch
import torch.fx
from reference import largest_error, published_state, record

from hairify import plan
from hairify.errors import OptionError
from hairify.models import restormer


def test_it_computes_what_the_published_network_computes() -> None:
    model = restormer(**record("restormer")["config"]).double()
    model.load_state_dict(published_state("restormer"))
    assert largest_error(model, "restormer") < 1e-9


def test_published_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in restormer().parameters()) == 26_126_644


def test_torch_fx_follows_it_without_help() -> None:
    model = restormer(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1)
    image = torch.rand(2, 3, 32, 40)
    assert torch.equal(torch.fx.symbolic_trace(model)(image), model(image))


@pytest.mark.slow
def test_converted_size_is_the_papers() -> None:
    made = plan(restormer(), preset="published")
    before, after = made.parameters
    assert before == 26_126_644
    assert round(after / 1e6, 1) == 29.3
    assert [level.box_size for level in made.levels] == [9, 7, 7, 5, 5]


def test_bias_free_norm_scales_by_the_spread_about_the_mean() -> None:
    model = restormer(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, norm="BiasFree").double()
    norm, x = model.encoder_level1[0].norm1, torch.randn(2, 8, 3, 4).double()
    expected = x / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt() * norm.body.weight[:, None, None]
    assert torch.allclose(norm(x), expected, atol=1e-12)
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_blocks": (1, 2, 3)}, "num_blocks"),
        ({"num_blocks": (1, 1, 1, -1)}, "`num_blocks` is .* integers from 0 up"),
        ({"dim": -8}, "`dim` is -8; accepted are integers from 1 up"),
        ({"heads": (0, 1, 1, 1)}, "`heads` is .* integers from 1 up"),
        ({"expansion": 0.0}, "`expansion` is 0.0"),
        ({"heads": (1, 2)}, "heads"),
        ({"dim": 6, "heads": (4, 4, 4, 4)}, "must divide"),
        ({"norm": "Batch"}, "'WithBias' and 'BiasFree'"),
    ],
)
def test_impossible_options_are_named(options: dict[str, object], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        restormer(**options)  # type: ignore[arg-type]
