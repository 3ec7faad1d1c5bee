"""TransWeather against the published one, and converted."""

from __future__ import annotations

import pytest
import torch
from laws import Specimen, examine
from reference import largest_error, published_state, record
from torch import Tensor, nn

from hairify import HairModel, hairify, plan
from hairify.errors import HairWarning, OptionError
from hairify.models import transweather
from hairify.models.transweather import DropPath

SMALL = {"dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1)}
OPTIONS = {"preset": "published", "split_at": "Tenc", "exclude": ("convtail", "clean")}


def test_it_computes_what_the_published_network_computes() -> None:
    model = transweather(**record("transweather")["config"]).double()
    model.load_state_dict(published_state("transweather"), strict=True)
    assert largest_error(model, "transweather") < 1e-9


def test_names_shapes_and_size_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = transweather()
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == dict(
        record("transweather")["state"]
    )
    assert sum(p.numel() for p in model.parameters()) == 38_052_078


@pytest.mark.parametrize("size", [(48, 48), (64, 112), (80, 48), (96, 64)])
def test_sides_are_multiples_of_16_from_48_up(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size)
    restored = transweather(**SMALL).eval()(image)
    assert restored.shape == image.shape
    assert restored.abs().max() < 1


@pytest.mark.parametrize("size", [(32, 48), (56, 64)])
def test_other_sizes_fail(size: tuple[int, int]) -> None:
    with pytest.raises(RuntimeError):
        transweather(**SMALL).eval()(torch.rand(1, 3, *size))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dims": (16, 32, 64)}, "4 stages"),
        ({"heads": (1, 2)}, "4 stages"),
        ({"depths": (1, 1, 1, 1, 1)}, "4 stages"),
        ({"dims": (16, 33, 64, 64)}, "must divide"),
        ({"decoder_heads": 7}, "must divide"),
        ({"depths": (1, 0, 1, 1)}, "from 1 up"),
        ({"decoder_depth": 0}, "from 1 up"),
        ({"heads": (0, 1, 1, 1)}, "from 1 up"),
        ({"drop_path": 1.0}, "drop_path"),
    ],
)
def test_impossible_options_are_named(options: dict[str, object], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        transweather(**options)  # type: ignore[arg-type]


def called(model: nn.Module, image: Tensor) -> set[str]:
    """Names of the modules that a forward calls."""
    names: set[str] = set()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: names.add(name))
    model(image)
    return names


def test_two_layers_are_never_called() -> None:
    model = transweather(**SMALL).eval()
    leaves = {name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    never = leaves - called(model, torch.rand(1, 3, 64, 64))
    assert never == {"Tenc.mini_patch_embed4.proj", "convtail.conv_output.conv2d"}


def test_drop_path_rates_rise_over_the_blocks() -> None:
    model = transweather(dims=(16, 16, 16, 16), drop_path=0.14)
    encoder = [block for stage in (1, 2, 3, 4) for block in getattr(model.Tenc, f"block{stage}")]
    assert [block.drop_path.probability for block in encoder] == pytest.approx([0.02 * i for i in range(8)])
    beside = [getattr(model.Tenc, f"patch_block{stage}")[0].drop_path.probability for stage in (1, 2, 3)]
    assert beside == pytest.approx([0.02, 0.06, 0.10])  # that of the stage's last block
    decoder = [block.drop_path.probability for block in model.Tdec.block1]
    assert decoder == pytest.approx([0.14 * i / 15 for i in range(3)])


def test_drop_path_leaves_out_whole_images_and_keeps_the_mean() -> None:
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    dropped = drop(x)
    kept = dropped[:, 0, 0] != 0
    assert torch.equal(dropped, kept[:, None, None] * torch.full_like(x, 4 / 3))
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert torch.equal(drop.eval()(x), x)


def test_queries_are_the_same_for_every_image() -> None:
    model = transweather(**SMALL).eval()
    seen: list[Tensor] = []
    model.Tdec.block1[0].attn.q.register_forward_hook(lambda module, args, output: seen.append(output))
    model(torch.rand(3, 3, 64, 64))
    assert seen[0].shape == (1, 48, 32)


def test_converted_size_is_the_papers() -> None:
    p = plan(transweather(), **OPTIONS)
    assert p.parameters == (38_052_078, 41_531_082)
    assert [(v.name, len(v.blocks), v.box_size) for v in p.levels] == [("Tdec.block1", 3, 4)]


@pytest.mark.filterwarnings("ignore::hairify.errors.HairWarning")
def test_converted_it_obeys_the_laws() -> None:
    findings = examine(Specimen(lambda: transweather(**SMALL), sizes=((64, 96), (80, 48)), options=OPTIONS))
    assert [(v.name, v.layers) for v in findings.plan.levels] == [
        ("Tdec.block1", ("attn.kv", "attn.proj", "mlp.fc1", "mlp.dwconv.dwconv", "mlp.fc2"))
    ]
    assert findings.plan.skipped["Tdec.block1.0.attn.q"] == "does not depend on the split's output"


def test_the_papers_choice_warns_of_the_patch_embedding() -> None:
    # Within Tdec the patch embedding alone is as large as a block, and it is not repeated.
    with pytest.warns(HairWarning, match="of the parameters after the split 'Tenc'"):
        hair = hairify(transweather(**SMALL), **OPTIONS)
    assert isinstance(hair, HairModel)
