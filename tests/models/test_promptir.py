"""PromptIR against the published one, and converted."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from laws import Specimen, examine
from reference import largest_error, published_state, record
from torch import nn

from hairify import plan
from hairify.errors import OptionError
from hairify.models import promptir
from hairify.models.promptir import PromptBlock

SMALL = {
    "dim": 8,
    "num_blocks": (2, 2, 2, 3),
    "num_refinement_blocks": 2,
    "prompt_dims": (4, 8, 8),
    "prompt_sizes": (8, 4, 2),
}
OPTIONS = {"preset": "published", "exclude": ("up4_3", "up3_2")}


def test_it_computes_what_the_published_network_computes() -> None:
    model = promptir().double()
    model.load_state_dict(published_state("promptir"), strict=True)
    assert largest_error(model, "promptir") < 1e-9


def test_names_shapes_and_size_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = promptir()
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == dict(record("promptir")["state"])
    assert sum(p.numel() for p in model.parameters()) == 35_592_263


@pytest.mark.parametrize("size", [(8, 16), (40, 24)])
def test_sides_are_multiples_of_8(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size)
    assert promptir(**SMALL).eval()(image).shape == image.shape


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prompt_dims": (64, 128)}, "prompt_dims"),
        ({"prompt_sizes": (64, 32, 16, 8)}, "prompt_sizes"),
        ({"prompt_sizes": (64, 32, 0)}, "from 1 up"),
        ({"prompt_dims": (64, 128, 321)}, r"heads\[2\]"),
        ({"num_blocks": (1, 2, 3)}, "num_blocks"),
        ({"norm": "Batch"}, "'WithBias' and 'BiasFree'"),
    ],
)
def test_impossible_options_are_named(options: dict[str, object], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        promptir(**options)  # type: ignore[arg-type]


def test_six_layers_are_never_called() -> None:
    model, called = promptir(**SMALL).eval(), set()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    model(torch.rand(1, 3, 16, 24))
    leaves = {name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    never = {f"chnl_reduce{i}" for i in (1, 2, 3)} | {f"reduce_noise_channel_{i}" for i in (1, 2, 3)}
    assert leaves - called == never


def test_a_prompt_block_mixes_prompts_by_the_feature() -> None:
    block, x = PromptBlock(6, 4, 8).double(), torch.randn(3, 6, 5, 7).double()
    for i in range(3):
        weights = F.linear(x[i].mean((1, 2)), block.linear_layer.weight, block.linear_layer.bias).softmax(0)
        prompt = sum(weights[n] * block.prompt_param[0, n] for n in range(5))
        resized = F.interpolate(prompt[None], (5, 7), mode="bilinear", align_corners=False)
        expected = F.conv2d(resized, block.conv3x3.weight, padding=1)
        assert torch.allclose(block(x)[i], expected[0], atol=1e-12)


@pytest.mark.slow
def test_converted_size_and_levels() -> None:
    p = plan(promptir(), **OPTIONS)
    assert p.split == "down3_4"
    assert p.parameters == (35_592_263, 38_790_083)
    assert [level.box_size for level in p.levels] == [9, 7, 7, 5, 5]


@pytest.mark.slow
def test_converted_it_obeys_the_laws() -> None:
    findings = examine(Specimen(lambda: promptir(**SMALL), sizes=((32, 48), (40, 24)), options=OPTIONS))
    assert findings.plan.split == "down3_4"
    assert [(v.name, len(v.blocks), v.box_size) for v in findings.plan.levels] == [
        ("latent", 3, 4),
        ("decoder_level3", 2, 3),
        ("decoder_level2", 2, 3),
        ("decoder_level1", 2, 3),
        ("refinement", 2, 3),
    ]


def test_without_the_exclusion_two_upsamplings_make_a_level() -> None:
    # What the examples' `exclude` is for.
    assert "up4_3" in [block for level in plan(promptir(**SMALL)).levels for block in level.blocks]
