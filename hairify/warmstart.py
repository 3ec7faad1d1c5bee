"""Where the weights of boxes and HSNs start: at the trained network exactly, or afresh."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hairify.boxes import HyperSelectingNet, StackedLinear

_PEAK = 0.7  # share of its own row in a block's selecting vector at the start, whatever N is: far from saturation
_NOISE = 0.1


def peaked_logits(blocks: int, box_size: int) -> Tensor:
    """Logits (M, N) whose softmax gives block m the share 0.7 of row m and equal shares of the rest.

    For a single block the rows share equally.
    """
    logits = torch.zeros(blocks, box_size, dtype=torch.float64)
    if blocks > 1:
        logits.fill_diagonal_(math.log(_PEAK * (box_size - 1) / (1 - _PEAK)))
    return logits


def start_at(hsn: HyperSelectingNet, logits: Tensor) -> Tensor:
    """Make the HSN return softmax(`logits`) for every GIV, and return what it then gives, (M, N) in float64.

    Its last layer gets weight zero, so this holds exactly; the earlier layers keep their fresh weights and
    start to matter as soon as the last one moves.
    """
    last = hsn.layers[-1]
    assert isinstance(last, StackedLinear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(logits)
        return last.bias.softmax(-1).double().cpu()


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
    target = target + noise * torch.randn(target.shape, generator=generator, dtype=torch.float64)
    # S⁺ W + (I − S⁺S) T, rearranged
    rows: Tensor = target + torch.linalg.pinv(selecting) @ (trained - selecting @ target)
    return rows.reshape(box_size, *weights.shape[1:])


def fresh_rows(shape: torch.Size, fan_in: int, box_size: int, generator: torch.Generator) -> Tensor:
    """Rows (N, *shape), float64, whose mixture under even selecting vectors has the spread of PyTorch's own init.

    An even mixture of N independent rows has a spread √N smaller than theirs; the rows make up for it.
    """
    bound = math.sqrt(box_size / fan_in)
    return torch.empty(box_size, *shape, dtype=torch.float64).uniform_(-bound, bound, generator=generator)


def make_rows(
    layers: list[nn.Module], box_size: int, selecting: Tensor | None, generator: torch.Generator | None
) -> dict[str, nn.Parameter]:
    """The Weight Box's rows for one layer of a level.

    Args:
        layers: that layer in each of the M blocks.
        box_size: N.
        selecting: S, shape (M, N), to preserve the trained weights; None for fresh ones.
        generator: for noise or fresh weights; None leaves the rows uninitialised, to be loaded.

    Returns:
        {"weight": (N, ...), "bias": (N, ...)}, the bias where the layers have one; frozen where all of theirs are.
    """
    rows: dict[str, nn.Parameter] = {}
    fan_in = _fan_in(layers[0].weight)  # type: ignore[arg-type]
    for name in ("weight", "bias"):
        sources: list[nn.Parameter] = [layer._parameters[name] for layer in layers]  # type: ignore[misc]
        if sources[0] is None:
            continue
        if generator is None:
            values = sources[0].new_empty(box_size, *sources[0].shape)
        elif selecting is None:
            values = fresh_rows(sources[0].shape, fan_in, box_size, generator)
        else:
            values = preserved_rows(torch.stack(list(sources)), selecting, fan_in, generator)
        rows[name] = nn.Parameter(values.to(sources[0]), requires_grad=any(s.requires_grad for s in sources))
    return rows


def make_low_rank(
    layers: list[nn.Module], box_size: int, rank: int, selecting: Tensor | None, generator: torch.Generator | None
) -> dict[str, nn.Parameter]:
    """What a `LowRankBox` holds for one layer of a level.

    The trained weights stay as they are, and the changes start in the null space of S, where S·change = 0. Where that
    is empty (N ≤ M) they start at zero with right factors that differ, so that the rows part as soon as they train.

    Args:
        layers: that layer in each of the M blocks.
        box_size: N.
        rank: of the factors, as `low_rank` limits it.
        selecting: as for `make_rows`, like `generator`.
        generator: see there.
    """
    made: dict[str, nn.Parameter] = {}
    weight: Tensor = layers[0].weight  # type: ignore[assignment]
    fan_in = _fan_in(weight)
    out, columns = weight.shape[0], weight[0].numel()
    rank = low_rank(weight.shape, rank)
    for name, change in (("weight", "left"), ("bias", "bias_change")):
        sources: list[nn.Parameter] = [layer._parameters[name] for layer in layers]  # type: ignore[misc]
        if sources[0] is None:
            continue
        shape = (out, rank) if name == "weight" else tuple(sources[0].shape)
        values = {name: torch.stack([s.detach() for s in sources]), change: sources[0].new_empty(box_size, *shape)}
        if name == "weight":
            values["right"] = sources[0].new_empty(box_size, rank, columns)
        if generator is not None:
            if selecting is None:
                values[name] = torch.stack([fresh_rows(s.shape, fan_in, 1, generator)[0] for s in sources])
            noise = _noise(values[name].double(), fan_in)
            values[change] = noise * torch.randn(box_size, *shape, generator=generator, dtype=torch.float64)
            if selecting is not None:
                values[change] = _unseen(selecting, values[change])
            if name == "weight":
                together = selecting is not None and box_size > len(layers)
                drawn = torch.randn(1 if together else box_size, rank, columns, generator=generator).double()
                values["right"] = (drawn / math.sqrt(rank)).expand(box_size, -1, -1)
        trained = any(s.requires_grad for s in sources)
        made.update({k: nn.Parameter(v.to(sources[0], copy=True), requires_grad=trained) for k, v in values.items()})
    return made


def low_rank(shape: Sequence[int], rank: int) -> int:
    """The rank of the factors for a weight of `shape`: at most that at which they still are smaller than it."""
    out, columns = shape[0], math.prod(shape[1:])
    return max(1, min(rank, out * columns // (out + columns)))


def _unseen(selecting: Tensor, change: Tensor) -> Tensor:
    """The part (I − S⁺S) of `change`, shape (N, *), that S does not see."""
    flat = change.flatten(1)
    return (flat - torch.linalg.pinv(selecting) @ (selecting @ flat)).reshape(change.shape)


def _noise(trained: Tensor, fan_in: int) -> float:
    """How far rows are set apart at the start."""
    return _NOISE * max(float(trained.std(unbiased=False)), 1 / math.sqrt(fan_in))


def _fan_in(weight: Tensor) -> int:
    return weight[0].numel()
