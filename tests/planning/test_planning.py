"""What is converted, where the split falls, and that both tracers agree."""

from __future__ import annotations

import gc
import inspect
import re
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from einops.layers.torch import Rearrange
from networks import NETWORKS, Chain, DnCNN, NAFNet, Pooled, TransposedUNet, UNet, WindowNet, small_restormer
from torch import Tensor, nn
from util import assert_unchanged, perturb, snapshot

from hairify import Plan, hairify, plan
from hairify._support.nested import all_tensors
from hairify._support.randomness import ONE_AT_A_TIME
from hairify.errors import HairWarning, NothingToConvertError, OptionError
from hairify.planning import Options
from hairify.planning._dependence import GradientGraph, Graphs, SymbolicGraph
from hairify.planning._options import DEFAULTS
from hairify.planning._probe import Probe
from hairify.planning._recording import _Numbers

EXAMPLE = torch.rand(1, 3, 32, 48)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("split_at", [None, 0.3, 0.6])
def test_both_tracers_give_the_same_plan(name: str, split_at: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = NETWORKS[name]()
    by_fx = plan(model, split_at=split_at)
    monkeypatch.setattr(SymbolicGraph, "of", lambda probe: None)
    observed = plan(model, split_at=split_at)
    assert observed.tracer == "observed"
    assert by_fx.tracer == ("observed" if name == "window" else "fx")
    assert {**by_fx.__dict__, "tracer": ""} == {**observed.__dict__, "tracer": ""}


class Rearranged(Chain):
    """einops as function and as layer, and an untraceable submodule that holds no layer."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(8, 8, 1), nn.Linear(8, 8))
        self.tokens, self.branches = Rearrange("b c h w -> b (h w) c"), Branches()

    def middle(self, x: Tensor) -> Tensor:
        y = self.body[1](self.tokens(self.branches(self.body[0](x))))
        return x + rearrange(y, "b (h w) c -> b c h w", h=x.shape[2])


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.shape[2] > 4 else -x


def test_fx_follows_einops_and_keeps_what_it_cannot_enter() -> None:
    hair = hairify(Rearranged(), split_at="split", targets="layers")
    assert hair.plan.tracer == "fx"
    assert len(hair.plan.levels) == 3
    x = torch.rand(2, 3, 32, 48)
    assert torch.allclose(hair.graph()(x), hair(x), atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_dependent_layers_are_the_same_by_both_tracers(name: str) -> None:
    probe = Probe(NETWORKS[name]())
    modules = [call.module for call in probe.recording.calls if call.module]
    symbolic, by_one_run = SymbolicGraph.of(probe), GradientGraph(probe.recording)
    for split in modules[:: max(1, len(modules) // 7)]:
        expected = GradientGraph(probe.run(graph_from=[split])).dependents(split)
        assert by_one_run.dependents(split) == expected, split
        assert symbolic is None or symbolic.dependents(split) == expected, split


class WritesThroughViews(Chain):
    """Dependence that only in-place changes carry, where torch.fx sees other data flow than there is."""

    def forward(self, image: Tensor) -> Tensor:
        skip = F.pixel_unshuffle(self.head(image), 2)[:, :8]
        feature = self.split(self.head(image))
        part = skip.narrow(1, 0, 4)
        part.add_(feature[:, :4])
        other = torch.zeros_like(feature)
        view = other.view(other.shape)
        view += feature
        return image + F.pixel_shuffle(self.last(self.body[0](skip) + self.body[1](other)), 2)


class Detaches(Chain):
    def middle(self, x: Tensor) -> Tensor:
        return self.body[1](x) + self.body[0](x.detach())


def test_where_the_tracers_differ_the_run_decides() -> None:
    for make, expected in ((WritesThroughViews, {"body.0", "body.1", "last"}), (Detaches, {"body.1", "last"})):
        probe = Probe(make(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)))
        by_fx = SymbolicGraph.of(probe)
        assert by_fx is not None
        assert by_fx.dependents("split") not in (None, expected)
        found = Graphs(probe).dependence("split")
        assert (found.dependents, found.tracer) == (expected, "observed")


@pytest.mark.parametrize(
    ("make", "split", "area"),
    [
        (small_restormer, "down3_4", 8 * 12),
        (UNet, "middle.0", 8 * 12),  # not the shared pool, whose first call is at another resolution
        (lambda: DnCNN(12), "body.14", 64 * 96),  # 5 of 10 equal convolutions
        (NAFNet, "downs.1", 16 * 24),
        (WindowNet, "groups.1", 64 * 96),  # 2 of 4 groups, not within the first
        (TransposedUNet, "bottom", 8 * 12),
    ],
)
def test_the_automatic_split_is_the_one_a_person_would_choose(
    make: Callable[[], nn.Module], split: str, area: int
) -> None:
    made = plan(make())
    assert (made.split, made.feature.area) == (split, area)


def test_the_split_is_the_outermost_module_with_that_very_output() -> None:
    inner = nn.Sequential(nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.Identity()), nn.Identity())
    assert (
        plan(nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), inner, nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 3, 1))).split == "1"
    )


def test_a_fraction_counts_layer_calls() -> None:
    chain = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(10)))
    assert [plan(chain, split_at=f).split for f in (0.05, 0.1, 0.11, 0.5, 0.9)] == ["0", "0", "1", "4", "8"]


class ChannelAttention(nn.Module):
    """Its attention map is (B, 8, 12, 12): heads and channels happen to have the aspect ratio of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.drop = nn.Conv2d(96, 288, 1), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).flatten(2).unflatten(1, (3, 8, 12)).unbind(1)
        return x + (self.drop((q @ k.transpose(2, 3)).softmax(-1)) @ v).reshape(x.shape)


def test_an_attention_map_is_not_taken_for_a_feature() -> None:
    net = nn.Sequential(nn.Conv2d(3, 96, 3, 2, 1), ChannelAttention(), nn.Conv2d(96, 96, 3, 1, 1), nn.Conv2d(96, 3, 1))
    assert "drop" not in plan(net).split


def levels(made: Plan) -> dict[str, tuple[int, int, int]]:
    """{name: (M, N, layers)}."""
    return {level.name: (len(level.blocks), level.box_size, len(level.layers)) for level in made.levels}


def test_levels_of_restormer_are_the_papers() -> None:
    model = small_restormer()
    assert levels(plan(model, preset="published")) == {
        "latent": (3, 4, 6),
        "decoder_level3": (2, 3, 6),
        "decoder_level2": (2, 3, 6),
        "refinement": (2, 3, 6),
    }


def test_layers_in_nested_repeats_belong_to_the_larger_family() -> None:
    """Three groups of two blocks each: the groups; two groups of three: the inner blocks; ties: the innermost."""

    def nest(groups: int, blocks: int) -> nn.Module:
        def block() -> nn.Module:
            return nn.Sequential(nn.Conv2d(8, 8, 1), nn.GELU(), nn.Conv2d(8, 8, 1, bias=False))

        return Chain(nn.Sequential(*(nn.Sequential(*(block() for _ in range(blocks))) for _ in range(groups))))

    assert levels(plan(nest(3, 2), targets="families", preset="published")) == {"body.0": (3, 4, 4)}
    assert levels(plan(nest(2, 3), targets="families", preset="published")) == {
        "body.0.0": (3, 4, 2),
        "body.0.1": (3, 4, 2),
    }
    assert levels(plan(nest(2, 2), targets="families", preset="published")) == {
        "body.0.0": (2, 3, 2),
        "body.0.1": (2, 3, 2),
    }


def test_bare_layers_are_a_family_from_three_on() -> None:
    def convs(count: int) -> nn.Module:
        return Chain(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(count)))

    assert levels(plan(convs(3), targets="families", preset="published")) == {"body": (3, 4, 1)}
    assert levels(plan(convs(2), preset="published")) == {"body.0": (1, 2, 1), "body.1": (1, 2, 1), "last": (1, 2, 1)}


class Roles(nn.Module):
    """Four equal layers with different roles, as in an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Conv2d(8, 8, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj((self.q(x) * self.k(x)).softmax(1) * self.v(x))


class Held(nn.Module):
    """Equal layers in a container of any kind."""

    def __init__(self, container: Callable[[list[nn.Module]], nn.Module]) -> None:
        super().__init__()
        self.layers = container([nn.Conv2d(8, 8, 1) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        held = self.layers.values() if isinstance(self.layers, nn.ModuleDict) else self.layers
        return sum((layer(x) for layer in held), x)


CONTAINERS: dict[str, Callable[[list[nn.Module]], nn.Module]] = {
    "Sequential": lambda layers: nn.Sequential(*layers),
    "ModuleList": nn.ModuleList,
    "ModuleDict": lambda layers: nn.ModuleDict({f"branch{i}": layer for i, layer in enumerate(layers)}),
}


@pytest.mark.parametrize("preset", ["default", "published"])
def test_layers_with_roles_are_no_family(preset: Any) -> None:
    with pytest.raises(NothingToConvertError):
        plan(Chain(Roles()), targets="families", preset=preset)
    repeated = plan(Chain(Roles(), Roles()), targets="families", preset=preset)
    assert [(level.name, len(level.blocks), level.layers) for level in repeated.levels] == [
        ("body", 2, ("q", "k", "v", "proj"))
    ]


@pytest.mark.parametrize("kind", CONTAINERS)
def test_entries_of_a_container_are_a_family_where_no_block_around_them_is_repeated(kind: str) -> None:
    alone = plan(Chain(Held(CONTAINERS[kind])), targets="families")
    assert [(level.name, len(level.blocks), level.layers) for level in alone.levels] == [("body.0.layers", 3, ("",))]
    repeated = plan(Chain(Held(CONTAINERS[kind]), Held(CONTAINERS[kind])), targets="families")
    assert [(level.name, len(level.blocks), len(level.layers)) for level in repeated.levels] == [("body", 2, 3)]


class Halves(nn.Module):
    """Two arguments, or a keyword: the call interface."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.conv(x) * scale


@pytest.mark.parametrize("difference", ["none", "setting", "shape", "class", "interface", "parameterless"])
def test_siblings_must_be_alike(difference: str) -> None:
    def block(**options: Any) -> nn.Module:
        return nn.Sequential(nn.Conv2d(8, 8, 3, **{"padding": 1, **options}), nn.BatchNorm2d(8), nn.ReLU())

    pairs: dict[str, tuple[nn.Module, nn.Module]] = {
        "none": (block(), block()),
        "setting": (block(), block(padding_mode="reflect")),
        "shape": (block(), block(groups=2)),
        "class": (block(), nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU())),
        "interface": (Halves(), Halves()),
        "parameterless": (block(), nn.Sequential(*block()[:2], nn.GELU(), nn.Dropout(0.1))),
    }

    class TwoWays(Chain):
        def middle(self, x: Tensor) -> Tensor:
            return self.body[1](self.body[0](x), scale=2.0) if difference == "interface" else super().middle(x)

    found = levels(plan(TwoWays(*pairs[difference])))
    assert ("body" in found) == (difference in ("none", "parameterless"))


def test_targets() -> None:
    repeated = [nn.Sequential(nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)) for _ in range(2)]
    model = Chain(*repeated, nn.Conv2d(8, 8, 3, padding=1))  # the repeats hold far less than half
    assert set(levels(plan(model))) == {"body", "body.2", "last"}
    assert set(levels(plan(model, targets="families"))) == {"body"}
    assert set(levels(plan(model, targets="layers"))) == {
        "body.0.0",
        "body.0.1",
        "body.1.0",
        "body.1.1",
        "body.2",
        "last",
    }


def test_include_and_exclude_match_layers_and_what_holds_them() -> None:
    made = plan(
        small_restormer(), include=("latent", "decoder*"), exclude=("*.ffn", "decoder_level2"), preset="published"
    )
    assert {layer for level in made.levels for layer in level.layers} == {
        "attn.qkv",
        "attn.qkv_dwconv",
        "attn.project_out",
    }
    assert set(levels(made)) >= {"latent", "decoder_level3"}
    assert (
        made.skipped["latent.0.ffn.dwconv"]
        == made.skipped["refinement.0.attn.qkv"]
        == "ruled out by `include` or `exclude`"
    )


def test_box_sizes() -> None:
    assert {level.box_size for level in plan(small_restormer(), box_size=6, preset="published").levels} == {6}
    sizes = levels(plan(small_restormer(), box_size={"latent": 9, "decoder*": 4}, preset="published"))
    assert [n for _, n, _ in sizes.values()] == [9, 4, 4, 3]


class Traps(nn.Module):
    """One layer for each reason to leave it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.split = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.good = nn.Conv2d(8, 8, 3, padding=1)
        self.functional = nn.Conv2d(8, 8, 1)
        self.dtype_only = nn.Conv2d(8, 8, 1)
        self.direct = nn.Conv2d(8, 8, 1)
        self.unused = nn.Conv2d(8, 8, 1)
        self.tied, self.twin = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.twin.weight = self.tied.weight
        self.side = nn.Conv2d(3, 8, 1)
        self.position = nn.Linear(1, 1)
        self.folded = nn.Linear(4, 4)
        self.swapped = nn.Linear(8, 8)
        self.weighted = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1))
        self.old_weighted = nn.utils.spectral_norm(nn.Conv2d(8, 8, 1))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.custom = Doubled(8, 8, 1)
        self.volume = nn.Conv3d(1, 1, 1)
        self.both = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.good(self.split(self.before(image)))
        x = F.conv2d(x, self.functional.weight, self.functional.bias) + self.functional(x)
        x = self.dtype_only(x.to(self.dtype_only.weight.dtype))
        x = self.direct.forward(x)
        x = self.tied(x) + self.twin(x) + self.side(F.avg_pool2d(image, 2))
        x = x + self.position(x.mean((0, 2, 3)).view(-1, 1))[0]  # mixes the images
        x = x + self.folded(x.transpose(0, 1).reshape(-1, 4)).reshape(x.transpose(0, 1).shape).transpose(0, 1)
        x = x + self.swapped(x.permute(2, 3, 0, 1)).permute(2, 3, 0, 1)
        x = self.custom(self.old_weighted(self.weighted(x)))
        tokens = x.flatten(2).transpose(1, 2)
        x = self.attention(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)
        x = x + self.volume(x[:, None])[:, 0]
        x = self.both(x[:1]).repeat(len(x), 1, 1, 1) if len(x) > 1 else self.both(x)
        return image + F.interpolate(self.last(x), scale_factor=2)


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_every_layer_left_alone_has_its_reason() -> None:
    model = Traps()
    before = snapshot(model)
    reasons = plan(model, split_at="split", example_inputs=EXAMPLE).skipped
    assert_unchanged(model, before)
    expected = {
        "before": "before the split",
        "split": "before the split",
        "functional": "read from outside",
        "dtype_only": "read from outside",
        "direct": "read from outside",
        "unused": "never called",
        "tied": "tied to that of 'twin'",
        "twin": "tied to that of 'tied'",
        "side": "does not depend",
        "position": "not ordered by image",
        "folded": "not ordered by image",
        "swapped": "not ordered by image",
        "weighted": "parametrised",
        "old_weighted": "parametrised",
        "attention.out_proj": "read from outside",
        "custom": "Doubled overrides forward",
        "volume": "Conv3d is not among the classes",
        "both": "not ordered by image",
        "last": "not ordered by image",
    }
    assert set(reasons) == set(expected)
    for name, text in expected.items():
        assert text in reasons[name], f"{name}: {reasons[name]}"


def test_a_weight_used_by_a_hook_of_the_layer_is_read_from_outside() -> None:
    model = Chain(nn.Conv2d(8, 8, 1))
    model.body[0].register_forward_hook(lambda module, args, output: output * module.weight.norm())
    assert plan(model).skipped["body.0"] == "its weight is read from outside its own call"


def test_windows_folded_into_the_batch_pass() -> None:
    made = plan(WindowNet())
    assert "qkv" in made.levels[0].layers
    assert made.skipped["groups.2.blocks.0.position.0"] == "does not depend on the split's output"


def test_a_warning_where_little_is_converted() -> None:
    model = Chain(nn.Conv2d(8, 8, 1), Doubled(8, 64, 3, padding=1), nn.Conv2d(64, 8, 1))
    made = plan(model)
    assert made.share < 0.5
    assert "warning: Only" in str(made)
    with pytest.warns(HairWarning, match="become hyper layers"):
        hairify(model)


def test_plan_and_conversion_agree() -> None:
    model = small_restormer()
    made = plan(model)
    hair = hairify(model, plan=made, generator=torch.Generator().manual_seed(3))
    direct = hairify(model, generator=torch.Generator().manual_seed(3))
    assert hair.plan == direct.plan == made
    assert all(torch.equal(a, b) for a, b in zip(hair.parameters(), direct.parameters(), strict=True))


def test_a_plan_with_further_options_is_refused() -> None:
    model = UNet()
    with pytest.raises(OptionError, match="`plan` is given together with `split_at`, `giv_dim`"):
        hairify(model, plan=plan(model), split_at=0.5, giv_dim=8)


def test_the_printed_plan_can_be_read() -> None:
    text = str(plan(small_restormer(), preset="published"))
    assert text.splitlines()[0] == "split    down3_4 -> F_g 64×8×12 (map) on inputs (1, 3, 64, 96)"
    for row in (
        "level           blocks M  box size N  layers       P  rank  in the box",
        "latent                 3           4       6  53,812  full     215,248",
        "34  runs before the split: patch_embed.proj, encoder_level1.0.attn.qkv, encoder_level1.0.attn.qkv_dwconv, ...",
    ):
        assert row in text


class PaddedMap(nn.Module):
    """Works on a map that is padded to whole windows of 3×3, and crops it."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.inner, self.tail = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        height, width = y.shape[2:]
        y = self.inner(F.pad(y, (0, -width % 3, 0, -height % 3)))[..., :height, :width]
        return x + F.pixel_shuffle(self.tail(y), 2)


def test_what_a_convolution_returns_is_a_map_however_well_it_fits_channels_last() -> None:
    """Its 6×9×12 would be 6×9 positions of an image of 16×24; then another size would have other channels."""
    hair = hairify(PaddedMap(), split_at="inner", example_inputs=torch.rand(1, 3, 16, 24)).eval()
    assert (hair.plan.feature.layout, hair.plan.feature.shape) == ("map", (6, 9, 12))
    assert hair(torch.rand(2, 3, 32, 16)).shape == (2, 3, 32, 16)


def test_json_round_trip() -> None:
    made = plan(small_restormer())
    assert Plan.from_json(made.to_json()) == made
    assert plan(small_restormer()).to_json() == made.to_json()


class Named(Chain):
    def forward(self, *, picture: Tensor, strength: Tensor, double: bool = False) -> dict[str, Tensor]:
        out = super().forward(picture) * strength.view(-1, 1, 1, 1)
        return {"restored": out * 2 if double else out, "feature": self.split(self.head(picture))}


@pytest.mark.parametrize("batch", [1, 2])
def test_keyword_inputs_and_dict_outputs(batch: int) -> None:
    model = Named(nn.Conv2d(8, 8, 1)).double().eval()
    inputs = {"picture": torch.rand(batch, 3, 32, 48).double(), "strength": torch.rand(batch).double()}
    hair = hairify(model, example_inputs=inputs)
    assert hair.plan.inputs == "picture=(1, 3, 32, 48), strength=(1,)"
    assert torch.allclose(hair(**inputs)["restored"], model(**inputs)["restored"], atol=1e-12)


class Listed(nn.Module):
    """The split returns a list; F_g is its lowest-resolution map."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decode = Pyramid(), nn.Conv2d(16, 8, 3, padding=1)
        self.fuse, self.last = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        high, low = self.encoder(x)
        return x + self.last(self.fuse(torch.cat([high, F.interpolate(self.decode(low), scale_factor=2)], 1)))


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        high = self.a(x)
        return [high, self.b(high)]


def test_a_split_that_returns_a_list() -> None:
    model = Listed().double()
    hair = hairify(model, split_at="encoder")
    assert (hair.plan.feature.index, hair.plan.feature.shape) == (1, (16, 32, 48))
    assert set(levels(hair.plan)) == {"decode", "fuse", "last"}
    x = torch.rand(2, 3, 32, 48).double()
    assert torch.allclose(hair(x), model(x), atol=1e-12)


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.last = nn.Linear(48, 16), nn.Linear(16, 16), nn.Linear(16, 48)

    def forward(self, image: Tensor) -> Tensor:
        x = F.pixel_unshuffle(image, 4).permute(0, 2, 3, 1)
        return image + F.pixel_shuffle(self.last(F.gelu(self.mix(self.embed(x)))).permute(0, 3, 1, 2), 4)


def test_a_channels_last_feature() -> None:
    model = ChannelsLast().double()
    hair = hairify(model, split_at="embed")
    assert (hair.plan.feature.layout, hair.plan.feature.shape) == ("channels_last", (16, 16, 24))
    x = torch.rand(2, 3, 32, 48).double()
    assert torch.allclose(hair(x), model(x), atol=1e-12)


class InTraining(Chain):
    """Does something else in training mode."""

    def __init__(self, kind: str) -> None:
        super().__init__(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)))
        self.kind, self.norm = kind, nn.BatchNorm2d(8)

    def middle(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().middle(x)
        if self.kind == "doubles the batch":  # [a, b, a', b']: no longer the rows of image a, then those of b
            return super().middle(torch.cat([x, x.flip(2)])).chunk(2)[0]
        if self.kind == "asks for a bias":
            return super().middle(x) + (self.body[1].bias is not None)
        return super().middle(F.dropout(self.norm(x)))


@pytest.mark.parametrize(
    ("kind", "layers", "reason"),
    [
        ("doubles the batch", {"body.0", "body.1", "body.2"}, "in training mode is not ordered by image"),
        ("asks for a bias", {"body.1"}, "without a weight of its own the model does not compute the same"),
        ("draws and normalises", set(), ""),
    ],
)
def test_layers_are_judged_in_training_mode_too(kind: str, layers: set[str], reason: str) -> None:
    skipped = plan(InTraining(kind), split_at="split", targets="layers").skipped
    assert {name for name in skipped if name.startswith("body")} == layers
    assert all(reason in skipped[name] for name in layers)


class Selects(Chain):
    """Lets a layer see only the positions that are not black."""

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.split(self.head(image)).permute(0, 2, 3, 1).clone()
        chosen = F.max_pool2d(image, 2).amax(1) > 0
        tokens[chosen] = self.body[0](tokens[chosen])
        return image + F.pixel_shuffle(self.last(tokens.permute(0, 3, 1, 2)), 2)


def test_positions_selected_by_value_are_not_ordered_by_image() -> None:
    skipped = plan(Selects(nn.Linear(8, 8)), split_at="split", targets="layers").skipped
    assert "not ordered by image" in skipped["body.0"]


class Counts(Chain):
    """Minds only if more than one layer of the body has lost its weight."""

    def middle(self, x: Tensor) -> Tensor:
        return super().middle(x) * (1 + (len(list(self.body.parameters())) < 3))


def test_layers_that_only_together_cannot_go_without_weights_stay() -> None:
    model = Counts(*(nn.Conv2d(8, 8, 1) for _ in range(2))).double()
    hair = hairify(model, split_at="split", targets="layers", dac=Pooled)
    assert [name for name in ("body.0", "body.1", "last") if name not in hair.plan.skipped] == ["last"]
    x = torch.rand(2, 3, 32, 48).double()
    assert torch.allclose(hair(x), model(x), rtol=0, atol=1e-12)


class FreezesItself(Chain):
    """Records no gradients up to the split."""

    def forward(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            feature = self.split(self.head(image))
        return image + F.pixel_shuffle(self.last(self.middle(feature)), 2)


def test_a_network_that_freezes_what_comes_before_the_split() -> None:
    model = FreezesItself(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)))
    hair = hairify(model, split_at="split", targets="layers", dac=Pooled)
    assert set(hair.plan.skipped) == {"head", "split"}
    perturb(hair)(torch.rand(2, 3, 32, 48)).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in hair.dac.parameters())
    assert all(p.grad is None for p in hair.base.split.parameters())
    with torch.no_grad():
        assert not hair(torch.rand(2, 3, 32, 48)).requires_grad


class SignsOfOthers(nn.Module):
    """Each image meets the signs of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed, self.own = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x) + self.mixed(F.interpolate(x.sign() * x.flip(0).sign(), scale_factor=2.0)[..., ::2, ::2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_that_are_mixed_by_signs_alone_are_seen(dtype: torch.dtype) -> None:
    made = plan(Chain(SignsOfOthers()).to(dtype))
    assert "not ordered by image" in made.skipped["body.0.mixed"]
    assert "body.0.own" not in made.skipped


class Spectral(nn.Module):
    """A layer of complex numbers that receives a view which is not conjugated yet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1, bias=False).to(torch.complex64)

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.ifft2(self.conv(torch.fft.fft2(x).conj())).real


def test_conjugated_views_are_followed() -> None:
    assert plan(Chain(Spectral(), nn.Conv2d(8, 8, 1))).levels


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("full"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=str,
)
@pytest.mark.parametrize("when", ["alone", "two", "training"])
def test_lack_of_memory_is_no_evidence(error: Exception, when: str) -> None:
    class Fails(Chain):
        def middle(self, x: Tensor) -> Tensor:
            if when == "alone" or (when == "training" and self.training) or (when == "two" and len(x) == 2):
                raise error
            return super().middle(x)

    with pytest.raises(type(error)):
        plan(Fails(nn.Conv2d(8, 8, 1)), example_inputs=EXAMPLE)


def test_tensors_are_not_kept_and_their_numbers_not_given_again() -> None:
    numbers, seen = _Numbers(), set()
    for _ in range(1000):
        x = torch.rand(3)
        assert numbers.of(x) == numbers.of(x)
        seen.add(numbers.of(x))
        del x  # its place in memory, and its `id`, are taken by the next
    assert len(seen) == 1000


@pytest.mark.parametrize("graph_from", [None, ["split"], ["head", "split", "body.0", "body.1", "last", ""]])
def test_a_run_keeps_no_tensor_but_its_output(graph_from: list[str] | None) -> None:
    model = UNet() if graph_from is None else Chain(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
    alive: list[weakref.ref[Tensor]] = []
    probe = Probe(model, EXAMPLE)
    for module in probe.model.modules():
        module.register_forward_hook(_Noting(alive))
    recording = probe.run(graph_from=graph_from, fingerprints=graph_from is None)
    gc.collect()
    kept = [t for ref in alive if (t := ref()) is not None]
    assert len(alive) > 5
    assert all(any(t is o for o in all_tensors(recording.output)) for t in kept)


class _Noting:
    def __init__(self, alive: list[weakref.ref[Tensor]]) -> None:
        self.alive = alive

    def __deepcopy__(self, memo: Any) -> _Noting:
        return self

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.alive += [weakref.ref(t) for t in all_tensors(output)]


def test_a_misspelt_option_is_told_the_right_one() -> None:
    with pytest.raises(OptionError, match=r"no option 'split'.*Did you mean 'split_at'"):
        plan(UNet(), split="down")  # type: ignore[call-arg]
    with pytest.raises(OptionError, match=r"no option 'in_place'.*Did you mean 'inplace'"):
        hairify(UNet(), in_place=True)  # type: ignore[call-arg]


def test_options_are_listed_once_and_shown_everywhere() -> None:
    assert DEFAULTS.keys() == Options.__annotations__.keys()
    for function, own in ((hairify, ["model", "plan", "inplace"]), (plan, ["model"])):
        parameters = inspect.signature(function).parameters
        assert list(parameters) == [*own, *DEFAULTS]
        assert {name: parameters[name].default for name in DEFAULTS} == DEFAULTS
    described = re.findall(
        r"^        (\w+): ", str(hairify.__doc__).partition("Args:")[2].partition("Returns:")[0], re.M
    )
    assert described == ["model", "plan", "inplace", *DEFAULTS]


def test_arrays_as_options_are_refused_by_name() -> None:
    with pytest.raises(OptionError, match="`include` is"):
        plan(UNet(), include=np.array(["*"]))
    made = plan(UNet())
    with pytest.raises(OptionError, match="`example_inputs`"):
        hairify(UNet(), plan=made, example_inputs=np.zeros((1, 3, 32, 48)))


def test_a_dac_of_the_users_runs_while_no_other_thread_plans() -> None:
    held: list[bool] = []

    class Noting(Pooled):
        def forward(self, feature: Tensor) -> Tensor:
            held.append(ONE_AT_A_TIME._is_owned())  # type: ignore[attr-defined]
            return super().forward(feature)

    plan(UNet(), dac=Noting)
    assert held
    assert all(held)
