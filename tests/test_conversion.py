"""The laws of a converted network, over a matrix of networks."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from networks import NETWORKS, Chain, UNet, all_kinds
from torch import Tensor, nn
from util import START, assert_close, assert_differs, assert_unchanged, perturb, snapshot, train

from hairify import HairModel, hairify
from hairify.errors import GraphError

SIZE = (64, 96)  # large enough for every layer of the DAC to run, and not square


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    return NETWORKS[request.param]()


def images(batch: int = 3, size: tuple[int, int] = SIZE, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(batch, 3, *size, dtype=dtype)


def converted(model: nn.Module) -> HairModel:
    """In float64, its weights made to depend on the image."""
    return perturb(hairify(model.double().eval()))


@pytest.mark.parametrize("dtype", START)
@pytest.mark.parametrize("trained", [False, True])
def test_it_starts_at_the_original_function(network: nn.Module, dtype: torch.dtype, trained: bool) -> None:
    model = (train(network) if trained else network).to(dtype).eval()
    x = images(dtype=dtype)
    with torch.no_grad():
        assert_close(hairify(model)(x), model(x), START[dtype])


@pytest.mark.parametrize("name", NETWORKS)
def test_it_starts_at_the_original_function_in_training_mode(name: str) -> None:
    torch.manual_seed(1)
    model = NETWORKS[name]().double().train()
    hair = hairify(model)
    assert {m.training for m in hair.modules()} == {True}
    x = images()
    assert_close(hair(x), model(x), START[torch.float64])


def test_the_original_is_left_as_it_is(network: nn.Module) -> None:
    train(network)
    before = snapshot(network)
    hair = hairify(network)
    assert_unchanged(network, before)
    train(hair)
    mine = dict(network.named_parameters())
    assert not any(p is mine.get(n) for n, p in hair.base.named_parameters()), "a parameter is shared"
    assert_unchanged(network, before, random=False)


def test_images_in_a_batch_do_not_meet(network: nn.Module) -> None:
    hair, x = converted(network), images()
    with torch.no_grad():
        vectors = hair.selecting_vectors(x)
        assert all((v[0] - v[1]).abs().max() > 1e-6 for v in vectors.values()), "the images get the same weights"
        assert_close(hair(x), torch.cat([hair(x[i : i + 1]) for i in range(len(x))]), 1e-10)


def test_each_image_meets_its_own_weights(network: nn.Module) -> None:
    """Against the static networks of the images: an oracle that has no per-image operation in it."""
    hair, x = converted(network), images()
    with torch.no_grad():
        static = [hair.bake(x[i : i + 1]) for i in range(len(x))]
        assert_differs(static[0](x[1:2]), static[1](x[1:2]), 1e-6)
        assert_close(hair(x), torch.cat([m(x[i : i + 1]) for i, m in enumerate(static)]), 1e-10)


def test_another_image_size_works(network: nn.Module) -> None:
    hair, x = converted(network), images(2, (40, 72))
    with torch.no_grad():
        assert hair(x).shape == x.shape
        assert_close(hair(x)[1:], hair(x[1:]), 1e-10)


def test_after_one_step_everything_added_learns(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if name.endswith(("beta", "gamma")):  # zero residual scales pass no gradient until they move
            nn.init.normal_(parameter)
    hair = hairify(network.double().train())
    optimizer = torch.optim.SGD(hair.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (hair(images(2)) - images(2)).square().mean().backward()
        optimizer.step()
    still = [
        n for n, p in hair.named_parameters() if not n.startswith("base.") and (p.grad is None or not p.grad.any())
    ]
    assert not still


@pytest.mark.parametrize("preset", ["default", "published"])
def test_what_learns_at_the_first_step(preset: str) -> None:
    """Equal rows pass no gradient to what selects among them; of factors, those that are zero are the first to move."""
    body = [nn.Conv2d(8, 8, 3, padding=1) for _ in "123"]
    hair = hairify(Chain(*body).double(), preset=preset, targets="families")
    hair(images()).square().mean().backward()
    moving = {
        n for n, p in hair.named_parameters() if p.grad is not None and p.grad.any() and not n.startswith("base.")
    }
    parts = ("weight", "bias", "left", "bias_change") if preset == "default" else ("weight", "bias")
    boxes = {n for n, _ in hair.named_parameters() if n.startswith("boxes.") and n.rpartition(".")[2] in parts}
    last = {n for n, _ in hair.named_parameters() if ".layers.3." in n}
    assert moving == (boxes if preset == "default" else boxes | last)


def test_baking_gives_the_original_class_back(network: nn.Module) -> None:
    original = copy.deepcopy(network).double()
    hair, x = converted(network), images(1)
    static = hair.bake(x)
    with torch.no_grad():
        assert_close(static(x), hair(x), 1e-12)
        assert_differs(hair.bake(images(1))(x), static(x), 1e-6)
    assert type(static) is type(original)
    assert list(static.state_dict()) == list(original.state_dict())
    original.load_state_dict(static.state_dict(), strict=True)
    assert {n: type(m) for n, m in static.named_modules()} == {n: type(m) for n, m in original.named_modules()}
    assert {n: set(m.__dict__) for n, m in static.named_modules()} == {
        n: set(m.__dict__) for n, m in original.named_modules()
    }
    assert not any(m._forward_hooks for m in static.modules())
    assert b"hairify.nn" not in pickle.dumps(static)


@pytest.mark.parametrize("copied_by", [copy.deepcopy, lambda hair: pickle.loads(pickle.dumps(hair))])
def test_a_copy_is_complete_and_independent(network: nn.Module, copied_by: object) -> None:
    hair, x = converted(network), images(2)
    twin = copied_by(hair)  # type: ignore[operator]
    with torch.no_grad():
        before = hair(x)
        assert torch.equal(twin(x), before)
        perturb(twin)
        assert torch.equal(hair(x), before), "the original runs the copy's parts"
        assert_differs(twin(x), before, 1e-6)  # and the copy its own


def test_the_graph_computes_the_same_and_names_the_parts(network: nn.Module) -> None:
    hair, x = converted(network), images(2)
    if hair.plan.tracer == "observed":
        with pytest.raises(GraphError, match=r"torch\.fx cannot follow"):
            hair.graph()
        return
    graph = hair.graph()
    with torch.no_grad():
        assert_close(graph(x), hair(x), 1e-12)
        assert_close(graph(x[:1]), hair(x[:1]), 1e-12)
    code = graph.code[graph.code.index("def forward") :]
    for earlier, later in (("self.dac(", "self.hsn"), ("self.hsn", "self.boxes"), ("self.boxes", "hyper_conv")):
        assert 0 <= code.index(earlier) < code.index(later)
    hair(x)  # the model itself still runs


@pytest.mark.slow
def test_conditioning_skips_the_dac(network: nn.Module) -> None:
    hair, x = converted(network), images(3)
    with torch.no_grad():
        free, giv = hair(x), hair.giv(x)
        assert giv.shape == (3, hair.plan.giv_dim)
        hair.dac.register_forward_hook(_refuse)
        with hair.conditioned_on(giv):
            assert torch.equal(hair(x), free)
        with hair.conditioned_on(giv[:1]):
            assert_close(hair(x)[:1], free[:1], 1e-10)
            assert_close(hair(x), hair.bake(giv=giv[:1])(x), 1e-10)
            with hair.conditioned_on(giv):
                assert torch.equal(hair(x), free)
            assert_differs(hair(x), free, 1e-6)
        with pytest.raises(AssertionError, match="the DAC ran"):
            hair(x)


def _refuse(*_: object) -> None:
    raise AssertionError("the DAC ran")


def test_selecting_vectors_are_distributions_over_the_rows(network: nn.Module) -> None:
    hair, x = converted(network), images(2)
    vectors = hair.selecting_vectors(x)
    assert set(vectors) == {block for level in hair.plan.levels for block in level.blocks}
    for level in hair.plan.levels:
        for block in level.blocks:
            assert vectors[block].shape == (2, level.box_size)
            assert torch.allclose(vectors[block].sum(1), torch.ones(2, dtype=torch.float64))


def test_parameters_are_divided_completely(network: nn.Module) -> None:
    hair = hairify(network)
    base, added = list(hair.base_parameters()), list(hair.hair_parameters())
    assert not {*map(id, base)} & {*map(id, added)}
    assert {*map(id, base), *map(id, added)} == {id(p) for p in hair.parameters()}
    assert sum(p.numel() for p in hair.parameters()) == hair.plan.parameters[1]


def test_in_place_conversion_reuses_the_model_and_its_handles() -> None:
    model, seen = UNet().eval(), []
    handle = model.up1[0].register_forward_hook(lambda m, i, o: seen.append(type(m).__name__))
    layer, x = model.up1[0], images(1, dtype=torch.float32)
    expected = model(x)
    hair = hairify(model, inplace=True)
    assert hair.base is model
    assert model.up1[0] is layer
    seen.clear()  # the probing runs call the model's hooks, as any forward does
    assert_close(hair(x), expected, 1e-5)
    assert seen == ["HyperConv2d"]
    handle.remove()
    hair(x)
    assert len(seen) == 1


def test_a_generator_makes_it_reproducible_and_the_global_state_stays() -> None:
    model = UNet()
    state = torch.get_rng_state()
    first, second, other = (hairify(model, generator=torch.Generator().manual_seed(s)).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first if k.startswith("hsn."))
    assert any(not torch.equal(first[k], other[k]) for k in first if k.startswith("boxes."))


def test_frozen_layers_stay_frozen() -> None:
    model = UNet()
    model.up1.requires_grad_(False)
    hair = hairify(model)
    frozen = {
        level.name
        for level, box in zip(hair.plan.levels, hair.boxes, strict=True)
        if not any(p.requires_grad for p in box.parameters())
    }
    assert frozen == {level.name for level in hair.plan.levels if level.name.startswith("up1")}


def test_unknown_attributes_are_those_of_the_base() -> None:
    model = UNet()
    model.scale = 4
    hair = hairify(model)
    assert hair.scale == 4
    assert hair.pool is hair.base.pool
    with pytest.raises(AttributeError, match="absent"):
        _ = hair.absent


def test_random_start_draws_fresh_weights() -> None:
    model, x = UNet().eval(), images(1, dtype=torch.float32)
    hair = hairify(model, init="random").eval()
    with torch.no_grad():
        assert_differs(hair(x), model(x))
        assert_differs(hair.selecting_vectors(x)["out"], torch.full((1, 4), 0.25), 1e-4)


def test_the_printed_model_tells_how_its_weights_come() -> None:
    text = str(hairify(NETWORKS["restormer"]()))
    assert "HyperConv2d(64, 192, kernel_size=(1, 1), stride=(1, 1), bias=False, level='latent', N=4)" in text
    assert "split='down3_4', levels: latent (M=3, N=4)" in text


def test_trainable_parameters_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    hair = hairify(UNet())
    hair.base.requires_grad_(False)
    hair.print_trainable_parameters()
    base = sum(p.numel() for p in hair.base.parameters())
    assert f"base: 0 of {base:,} parameters are trained" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{}, {"preset": "published"}, {"init": "random"}], ids=str)
def test_where_tensors_are_made_by_default_does_not_matter(options: dict[str, Any]) -> None:
    """As after `torch.set_default_device("cuda")`; what were made on the meta device would hold no numbers."""

    def made() -> HairModel:
        return hairify(model, generator=torch.Generator().manual_seed(0), **options).calibrate(x)

    model, x = all_kinds().eval(), torch.rand(4, 3, 32, 48)
    expected = made()
    with torch.device("meta"):
        got = made()
    assert got.plan.to_json() == expected.plan.to_json()
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in got.state_dict().items())
