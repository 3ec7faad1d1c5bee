"""Weight Boxes hold the paper's matrix W; stacked HSNs are the separate nets that the paper draws."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hairify.nn import HyperSelectingNet, WeightBox, published_widths


def block() -> nn.Module:
    """A block with layers at several depths, with and without bias, one of them named like a parameter."""
    return nn.ModuleDict(
        {
            "norm": nn.LayerNorm(4),
            "body": nn.Sequential(nn.Conv2d(4, 6, 3), nn.GELU(), nn.Conv2d(6, 4, 1, bias=False)),
            "attention": nn.ModuleDict({"qkv": nn.Linear(4, 12), "weight": nn.Linear(4, 4, bias=False)}),
            "up": nn.ConvTranspose2d(4, 2, 2),
        }
    ).double()


def layers_of(module: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in module.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d))}


def box_of(blocks: list[nn.Module]) -> WeightBox:
    """A box whose row i is block i."""
    rows = {
        layer_name: {
            name: nn.Parameter(torch.stack([b.get_submodule(layer_name).get_parameter(name) for b in blocks]).detach())
            for name, _ in layer.named_parameters()
        }
        for layer_name, layer in layers_of(blocks[0]).items()
    }
    return WeightBox(rows)


def flat(module: nn.Module) -> Tensor:
    """The parameters of a block's layers as one vector, in the order of the layers."""
    return torch.cat([p.flatten() for layer in layers_of(module).values() for p in layer.parameters()])


def test_flattened_rows_are_the_matrix_of_the_paper() -> None:
    blocks = [block() for _ in range(3)]
    matrix = torch.stack([flat(b) for b in blocks])  # (N, P)
    box = box_of(blocks)
    assert torch.equal(torch.cat([p.flatten(1) for p in box.parameters()], dim=1), matrix)
    names = [
        f"{layer_name}.{name}"
        for layer_name, layer in layers_of(blocks[0]).items()
        for name, _ in layer.named_parameters()
    ]
    assert [*box.state_dict()] == names

    selecting = torch.rand(2, 3, dtype=torch.float64).softmax(1)
    generated = {layer_name: box(layer_name, selecting) for layer_name in layers_of(blocks[0])}
    assert [layer_name for layer_name, (_, bias) in generated.items() if bias is None] == ["body.2", "attention.weight"]
    mixed = torch.cat([p.flatten(1) for pair in generated.values() for p in pair if p is not None], dim=1)
    assert torch.allclose(mixed, selecting @ matrix, rtol=1e-13, atol=1e-13)
    for layer_name, (weight, bias) in generated.items():
        layer = blocks[0].get_submodule(layer_name)
        assert weight.shape == (2, *layer.weight.shape)
        assert bias is None or bias.shape == (2, *layer.bias.shape)


def test_a_one_hot_selecting_vector_takes_its_row() -> None:
    blocks = [block() for _ in range(3)]
    box = box_of(blocks)
    for layer_name in layers_of(blocks[0]):
        weight, _ = box(layer_name, torch.eye(3, dtype=torch.float64))
        assert torch.equal(weight, torch.stack([b.get_submodule(layer_name).weight for b in blocks]))


@pytest.mark.parametrize("layer_name", ["", "weight", "bias", "a.weight.b"])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda box: pickle.loads(pickle.dumps(box))])
def test_names_of_layers(layer_name: str, duplicate: type[WeightBox]) -> None:
    box = duplicate(
        WeightBox({layer_name: {"weight": nn.Parameter(torch.rand(3, 4, 2)), "bias": nn.Parameter(torch.rand(3, 4))}})
    )
    assert [*box.state_dict()] == [f"{layer_name}.{name}".lstrip(".") for name in ("weight", "bias")]
    weight, bias = box(layer_name, torch.tensor([[0.0, 1.0, 0.0]]))
    assert torch.equal(weight, box.state_dict()[f"{layer_name}.weight".lstrip(".")][1:2])
    assert torch.equal(bias, box.state_dict()[f"{layer_name}.bias".lstrip(".")][1:2])


def test_gradients_reach_the_layer_that_ran_alone() -> None:
    box = box_of([block() for _ in range(3)])
    box("body.0", torch.eye(3, dtype=torch.float64)[:1])[0].sum().backward()
    assert [name for name, p in box.named_parameters() if p.grad is not None] == ["body.0.weight"]
    gradient = box.get_submodule("body.0").weight.grad
    assert gradient[0].eq(1).all()
    assert gradient[1:].eq(0).all()


def separate(hsn: HyperSelectingNet, block: int) -> nn.Sequential:
    """The oracle: one block's net, as the paper draws it, with the parameters of the stack."""
    layers: list[nn.Module] = []
    for stacked in hsn.layers:
        layer = nn.Linear(stacked.weight.shape[2], stacked.weight.shape[1], dtype=stacked.weight.dtype)
        layer.load_state_dict({"weight": stacked.weight[block], "bias": stacked.bias[block]})
        layers += [layer, nn.GELU()]
    return nn.Sequential(*layers[:-1])


def selecting_vector(logits: Tensor, limit: float | None) -> Tensor:
    """The oracle: one image's selecting vector (N,) from its logits (N,)."""
    if limit is not None:
        away = logits - logits.mean()
        logits = away / math.sqrt(1 + float(away @ away) / len(away) / limit**2)
    shares = [math.exp(v - float(logits.max())) for v in logits.tolist()]
    return torch.tensor([share / sum(shares) for share in shares], dtype=torch.float64)


@given(
    giv_dim=st.integers(1, 70),
    blocks=st.integers(1, 5),
    box_size=st.integers(1, 7),
    hidden=st.lists(st.integers(1, 9), max_size=3),
    limit=st.none() | st.floats(0.1, 10),
    batch=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_stacked_nets_equal_separate_ones(
    giv_dim: int, blocks: int, box_size: int, hidden: list[int], limit: float | None, batch: int, seed: int
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hsn = HyperSelectingNet(giv_dim, blocks, box_size, hidden, limit).double()
        giv = torch.randn(batch, giv_dim).double() * 3
    selecting = hsn(giv)
    assert selecting.shape == (batch, blocks, box_size)
    assert selecting.min() > 0
    assert (selecting.sum(dim=2) - 1).abs().max() < 1e-14
    logits = torch.stack([separate(hsn, m)(giv) for m in range(blocks)], dim=1).flatten(0, 1)
    expected = torch.stack([selecting_vector(one.detach(), limit) for one in logits]).view_as(selecting)
    assert (selecting - expected).abs().max() < 1e-13
    alone = torch.cat([hsn(one[None]) for one in giv])
    assert (selecting - alone).abs().max() < 1e-13


@pytest.mark.parametrize(
    ("giv_dim", "widths"),
    [
        (64, [64, 32, 16, 8]),
        (96, [96, 48, 24, 12]),
        (40, [40, 20, 10, 5]),
        (20, [20, 10, 5, 4]),
        (8, [8, 4, 4, 4]),
        (1, [1, 4, 4, 4]),
    ],
)
def test_published_widths(giv_dim: int, widths: list[int]) -> None:
    hsn = HyperSelectingNet(giv_dim, 3, 5, published_widths(giv_dim))
    shapes = [(tuple(layer.weight.shape), tuple(layer.bias.shape)) for layer in hsn.layers]
    assert shapes == [((3, b, a), (3, b)) for a, b in zip(widths, [*widths[1:], 5], strict=True)]


def test_fresh_nets_keep_the_variance() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hsn = HyperSelectingNet(256, 50, 40, (128,))
        giv = torch.randn(200, 256)
    for layer in hsn.layers:
        assert layer.weight.std().item() == pytest.approx(layer.weight.shape[2] ** -0.5, rel=0.05)
        assert not layer.bias.any()
    assert hsn.layers[0](giv.unsqueeze(0)).std().item() == pytest.approx(1, rel=0.05)
    first = hsn.layers[0].weight
    assert not any(torch.equal(first[0], other) for other in first[1:])  # the blocks' nets differ


limits = st.floats(0.1, 10)


@given(limit=limits, box_size=st.integers(2, 9), size=st.floats(1e-3, 1e6), seed=st.integers(0, 2**32 - 1))
def test_logits_are_held_under_their_limit(limit: float, box_size: int, size: float, seed: int) -> None:
    hsn = HyperSelectingNet(4, 1, box_size, (), limit)
    logits = size * torch.randn(5, box_size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    held = hsn.vectors_of(logits).log()
    held = held - held.mean(1, keepdim=True)
    away = logits - logits.mean(1, keepdim=True)
    before, after = (v.square().mean(1).sqrt() for v in (away, held))
    assert (after <= limit * (1 + 1e-9)).all()
    assert (after <= before * (1 + 1e-9)).all()
    assert torch.allclose(F.cosine_similarity(away, held), torch.ones(5, dtype=torch.float64))
    # Rows that are the more selected, the order of all, are as without a limit.
    assert torch.equal(hsn.vectors_of(logits).argsort(1), logits.argsort(1))


@given(limit=st.none() | limits, box_size=st.integers(1, 9), share=st.floats(0, 0.99), seed=st.integers(0, 2**32 - 1))
def test_logits_are_found_from_selecting_vectors(limit: float | None, box_size: int, share: float, seed: int) -> None:
    hsn = HyperSelectingNet(4, 1, box_size, (), limit)
    drawn = torch.randn(5, box_size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    drawn = F.normalize(drawn - drawn.mean(1, keepdim=True)) * box_size**0.5 * share * (limit or 10)
    vectors = drawn.softmax(1)
    assert torch.allclose(hsn.vectors_of(hsn.logits_of(vectors)), vectors, rtol=1e-9, atol=0)


def test_vectors_beyond_the_limit_have_no_logits() -> None:
    hsn = HyperSelectingNet(4, 1, 3, (), 0.5)
    with pytest.raises(ValueError, match=r"beyond the limit 0\.5"):
        hsn.logits_of(torch.tensor([0.98, 0.01, 0.01]))


def test_half_precision_does_not_lose_large_logits() -> None:
    hsn = HyperSelectingNet(4, 1, 3, (), 2.0).half()
    assert torch.equal(hsn.vectors_of(torch.tensor([6e4, -6e4, 0]).half()).argsort(), torch.tensor([1, 2, 0]))


@pytest.mark.parametrize(("limit", "leaves"), [(None, False), (2.0, True)])
def test_a_row_that_all_images_select_can_be_left(limit: float | None, leaves: bool) -> None:
    """It cannot where logits may grow without end: the softmax is saturated and passes no gradient on."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hsn, giv = HyperSelectingNet(8, 1, 4, (16,), limit), torch.randn(32, 8)
    with torch.no_grad():
        hsn.layers[-1].bias[0, 2] = 120.0
    wanted = F.one_hot((giv[:, 0] > 0).long(), 4).float()  # row 0 or 1
    optimizer = torch.optim.Adam(hsn.parameters(), 0.05)
    for _ in range(500):
        loss = F.mse_loss(hsn(giv)[:, 0], wanted)  # mixtures are linear in selecting vectors, too
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = hsn(giv)[:, 0].argmax(1).eq(wanted.argmax(1)).float().mean()
    assert (right > 0.9) == leaves


def test_full_precision_under_autocast() -> None:
    hsn, giv = HyperSelectingNet(64, 3, 5, (32,)), torch.randn(4, 64)
    expected = hsn(giv)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.linear(giv, giv).dtype == torch.bfloat16  # autocast is at work, or this test shows nothing
        result, of_half = hsn(giv), hsn(giv.bfloat16())
    assert result.dtype == of_half.dtype == torch.float32
    assert torch.equal(result, expected)
    assert torch.equal(of_half, hsn(giv.bfloat16().float()))


def test_boxes_mix_in_full_precision_under_autocast() -> None:
    box, selecting = box_of([block() for _ in range(3)]).float(), torch.rand(2, 3).softmax(1)
    expected = box("body.0", selecting)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = box("body.0", selecting)
    for found, wanted in zip(result, expected, strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)
