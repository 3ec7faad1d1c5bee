"""Where the weights of boxes and HSNs start: at the trained network exactly, or afresh.

There are two exact starts. Where M blocks share full rows, the rows must differ for the blocks to differ, so that only
one selecting vector gives each block its trained weights: HSNs start by returning that one for every image. Where a
block has rows of its own (in low-rank boxes, and where M = 1) the rows start equal instead, and any selecting vector
gives the trained weights; then HSNs start by telling images apart. Each row is trained at once on the images that
select it, and conditioning is awake after some tens of steps, not after some thousands (docs/conditioning.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hairify._support.torch_internals import own_parameters
from hairify.nn._hsn import HyperSelectingNet, StackedLinear

_PEAK = 0.7  # share of its own row in a block's selecting vector at the start, whatever N is: far from saturation
_NOISE = 0.1
_RIGHT_DEVIATION = 2.0  # of right factors, times 1/√rank: with a larger one rows part sooner, and more by noise


def peaked_vectors(blocks: int, box_size: int) -> Tensor:
    """Selecting vectors (M, N), M > 1, in float64: block m has the share 0.7 of row m, and equal shares of the rest."""
    vectors = torch.full((blocks, box_size), (1 - _PEAK) / (box_size - 1), dtype=torch.float64, device="cpu")
    return vectors.fill_diagonal_(_PEAK)


def start_at(hsn: HyperSelectingNet, selecting: Tensor) -> Tensor:
    """Make the HSN return the vectors `selecting` (M, N) for every GIV; returns what it then gives, in float64.

    Its last layer gets weight zero, so it gives the same for all; the earlier layers keep their fresh weights and
    start to matter as soon as the last one moves.
    """
    last = hsn.layers[-1]
    assert isinstance(last, StackedLinear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(hsn.logits_of(selecting))
        return hsn.vectors_of(last.bias).double().cpu()


def start_apart(hsn: HyperSelectingNet, generator: torch.Generator) -> None:
    """Make the HSN return selecting vectors that differ from image to image, as for rows that are equal.

    Args:
        hsn: its last layer gets random weights and biases of zero; `HyperSelectingNet.calibrate` makes logits of
            mean 0 and standard deviation `hsn.spread_at_start` of what they return.
        generator: on the CPU.
    """
    last = hsn.layers[-1]
    assert isinstance(last, StackedLinear)
    with torch.no_grad():
        drawn = torch.randn(last.weight.shape, generator=generator, device="cpu")
        last.weight.copy_(drawn * hsn.spread_at_start / math.sqrt(last.weight.shape[2]))
        last.bias.zero_()


def preserved_rows(weights: Tensor, selecting: Tensor, fan_in: int, generator: torch.Generator) -> Tensor:
    """Rows W with S·W = the trained weights, as near as that allows to a target that trains well.

    The solution is S⁺ W_trained + (I − S⁺S) T. The target T holds the trained weights in the first M rows and
    the level's mean in the spare ones, with noise on all: rows that are identical and weigh alike in every
    selecting vector would get identical gradients for ever.

    Args:
        weights: trained weights of one layer in the M blocks, shape (M, *shape).
        selecting: the selecting vectors S that the HSN gives at the start, shape (M, N), float64.
        fan_in: of the layer; sets a least noise for weights that are all equal, such as zeros.
        generator: for the noise.

    Returns:
        Shape (N, *shape), float64.
    """
    blocks, box_size = selecting.shape
    trained = weights.detach().cpu().double().flatten(1)
    noise = _noise(trained, fan_in)
    spare = trained.mean(0).expand(box_size - blocks, -1)
    target = torch.cat([trained, spare])
    target = target + noise * torch.randn(target.shape, generator=generator, dtype=torch.float64, device="cpu")
    # S⁺ W + (I − S⁺S) T, rearranged
    rows: Tensor = target + torch.linalg.pinv(selecting) @ (trained - selecting @ target)
    return rows.reshape(box_size, *weights.shape[1:])


def fresh_rows(shape: torch.Size, fan_in: int, selecting: Tensor, generator: torch.Generator) -> Tensor:
    """Rows (N, *shape), float64, whose mixtures at the start have the spread of PyTorch's own init.

    A mixture of independent rows has a smaller spread than they have, by the length of the selecting vector; the rows
    make up for it.

    Args:
        shape: of the layer's parameter.
        fan_in: of the layer.
        selecting: the selecting vectors S that the HSN gives at the start, shape (M, N).
        generator: on the CPU.
    """
    bound = 1 / math.sqrt(fan_in * float(selecting.square().sum(1).mean()))
    rows = torch.empty(selecting.shape[1], *shape, dtype=torch.float64, device="cpu")
    return rows.uniform_(-bound, bound, generator=generator)


def make_rows(
    layers: list[nn.Module],
    box_size: int,
    preserve: bool,
    selecting: Tensor | None,
    generator: torch.Generator | None,
) -> dict[str, nn.Parameter]:
    """The Weight Box's rows for one layer of a level.

    Args:
        layers: that layer in each of the M blocks.
        box_size: N.
        preserve: whether to preserve the trained weights; else they are fresh.
        selecting: S, shape (M, N), that the HSN gives at the start; None where rows start equal, of the only block.
        generator: for noise or fresh weights; None leaves the rows uninitialised, to be loaded.

    Returns:
        {"weight": (N, ...), "bias": (N, ...)}, the bias where the layers have one; frozen where all of theirs are.
    """
    rows: dict[str, nn.Parameter] = {}
    fan_in = _fan_in(layers[0].weight)  # type: ignore[arg-type]
    for name in ("weight", "bias"):
        sources: list[nn.Parameter] = [own_parameters(layer)[name] for layer in layers]  # type: ignore[misc]
        if sources[0] is None:
            continue
        if generator is None:
            values = sources[0].new_empty(box_size, *sources[0].shape)
        elif selecting is None:
            values = _own(layers, name, preserve, generator).expand(box_size, *sources[0].shape)
        elif preserve:
            values = preserved_rows(torch.stack(list(sources)), selecting, fan_in, generator)
        else:
            values = fresh_rows(sources[0].shape, fan_in, selecting, generator)
        values = values.to(sources[0], copy=True)
        rows[name] = nn.Parameter(values, requires_grad=any(s.requires_grad for s in sources))
    return rows


def make_low_rank(
    layers: list[nn.Module],
    box_size: int,
    rank: int,
    preserve: bool,
    generator: torch.Generator | None,
    *,
    shared: bool = False,
) -> dict[str, nn.Parameter]:
    """What a `LowRankBox` holds for one layer of a level.

    The trained weights stay as they are. Left factors and changes of biases start at zero, so that all rows are equal;
    right factors are random, so that rows part with the first steps.

    Args:
        layers: that layer in each of the M blocks.
        box_size: N.
        rank: of the factors, lowered as `limited_rank` says.
        preserve: whether to preserve the trained weights; else they are fresh.
        generator: for right factors and fresh weights; None leaves all uninitialised, to be loaded.
        shared: one set of factors for all blocks, as in models saved by hairify 0.1.

    Returns:
        The parameters that `LowRankBox` names; frozen where the layers' weights, or biases, all are.
    """
    sources = own_parameters(layers[0])
    weight, bias = sources["weight"], sources["bias"]
    assert weight is not None
    own = {name: _own(layers, name, preserve, generator) for name in ("weight", "bias") if sources[name] is not None}
    sets = 1 if shared else len(layers)
    left, right = _factors(weight, sets, box_size, rank, generator)
    of_weight = {"weight": own["weight"], "left": left, "right": right}
    of_bias = {}
    if bias is not None:
        of_bias = {"bias": own["bias"], "bias_change": weight.new_zeros(sets, box_size, *bias.shape)}
    made = {}
    for source, values in (("weight", of_weight), ("bias", of_bias)):
        trained = any(p.requires_grad for layer in layers if (p := own_parameters(layer)[source]) is not None)
        for name, value in values.items():
            made[name] = nn.Parameter(value.to(weight, copy=True), requires_grad=trained)
    return made


def _factors(
    weight: Tensor, sets: int, box_size: int, rank: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Left and right factors of differences between rows: zeros, and random numbers.

    Args:
        weight: of the layer, (out, ...).
        sets: how many blocks have factors of their own.
        box_size: N.
        rank: of the factors, lowered as `limited_rank` says.
        generator: for the right factors; None leaves them uninitialised.

    Returns:
        Shapes (sets, N, out, rank) and (sets, N, rank, columns).
    """
    out, columns = weight.shape[0], weight[0].numel()
    rank = limited_rank(weight.shape, rank)
    left = weight.new_zeros(sets, box_size, out, rank)
    if generator is None:
        return left, weight.new_empty(sets, box_size, rank, columns)
    deviation = _RIGHT_DEVIATION / math.sqrt(rank)
    return left, deviation * torch.randn(sets, box_size, rank, columns, generator=generator, device="cpu")


def _own(layers: list[nn.Module], name: str, preserve: bool, generator: torch.Generator | None) -> Tensor:
    """The weights (or biases) that the blocks have of their own, shape (M, *shape)."""
    trained: list[Tensor] = [own_parameters(layer)[name].detach() for layer in layers]  # type: ignore[union-attr]
    if preserve or generator is None:
        return torch.stack(trained)
    fan_in = _fan_in(own_parameters(layers[0])["weight"])  # type: ignore[arg-type]
    return torch.cat([fresh_rows(one.shape, fan_in, torch.ones(1, 1, device="cpu"), generator) for one in trained])


def limited_rank(shape: Sequence[int], rank: int) -> int:
    """The rank of the factors for a weight of `shape`: at most that at which they still are smaller than it."""
    out, columns = shape[0], math.prod(shape[1:])
    return max(1, min(rank, out * columns // (out + columns)))


def _noise(trained: Tensor, fan_in: int) -> float:
    """How far rows are set apart at the start."""
    return _NOISE * max(float(trained.std(unbiased=False)), 1 / math.sqrt(fan_in))


def _fan_in(weight: Tensor) -> int:
    return weight[0].numel()
