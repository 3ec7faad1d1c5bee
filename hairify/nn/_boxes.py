"""Weight Boxes: the rows that selecting vectors mix (paper, section 3.1.2), and what their blocks compute with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from hairify._support.symbolic import is_symbolic
from hairify._support.torch_internals import own_modules
from hairify.functional._kernels import Chooser
from hairify.functional._mixing import (
    mix,
    mix_low_rank,
    mix_low_rank_of_blocks,
    mix_of_blocks,
    mix_outputs,
    outputs_are_cheaper,
)
from hairify.functional._operations import Operation, Prepare
from hairify.functional._recomputation import applied, is_possible, is_worthwhile, recomputed

Weights: TypeAlias = tuple[Tensor, Tensor | None]
"""Weight (B, *shape) and bias (B, out) of one hyper layer for each image."""

FACTORS = ("left", "right", "bias_change")
"""Names of the parameters by which rows of a low-rank box differ."""


# Bytes of the weights of a level for all images, up to which they are made at once on CPUs.
_SMALL_LEVEL = 2**21


def _gradients_are_recorded() -> bool:
    """Whether what is made here knows of gradients; in inference mode nothing does, also with gradients switched on."""
    if torch.compiler.is_compiling():  # compilers cannot ask for that mode
        return torch.is_grad_enabled()
    return torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


@dataclass(eq=False)
class BlockWeights:
    """The weights of one block's layers for each image, or what they are made of.

    Attributes:
        box: of the block's level.
        block: position of the block in its level.
        selecting: its selecting vectors, shape (B, N).
        tuning: chooses kernels; None for the rules.
        shared: by layer, a weight and bias without a dimension of images: those of a single GIV, for all images.
        own: by layer, a weight and bias for each of several images.
        parameters: by layer, the block's part of the box, for weights that are made when the layer runs; of layers
            that stand in none, the box is called for it.
        with_gradients: whether gradients were recorded where the above was made.
    """

    box: WeightBox
    block: int
    selecting: Tensor
    tuning: Chooser | None = None
    shared: dict[str, Weights] = field(default_factory=dict)
    own: dict[str, Weights] = field(default_factory=dict)
    parameters: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    with_gradients: bool = field(default_factory=_gradients_are_recorded)

    def for_all(self, layer_name: str) -> Weights | None:
        """A layer's weight (*shape) and bias (out), if all images have the same; else None."""
        return self.shared.get(layer_name) if self._is_recorded() else None

    def of(self, layer_name: str) -> Weights:
        """A layer's weight (B, *shape) and bias (B, out)."""
        weights: Weights = self.box(layer_name, self.selecting, self.block)
        return weights

    def compute(self, layer_name: str, prepare: Prepare, input: Tensor, settings: Mapping[str, Any]) -> Tensor:
        """What a layer computes, each image with its own weights.

        Args:
            layer_name: name of the layer within the block.
            prepare: makes the operation.
            input: shape (k·B, ...).
            settings: of the operation.
        """
        if self._is_recorded():
            if (made := self.own.get(layer_name)) is not None:
                weight, bias = made
                input, operation = prepare(input, weight.shape[3:], **settings)
                return applied(operation, input, weight, bias, self.tuning)
            if (parameters := self.parameters.get(layer_name)) is not None:
                return self.box.compute(self.selecting, parameters, prepare, input, settings, self.tuning)
        output: Tensor = self.box(layer_name, self.selecting, self.block, prepare, input, **settings)
        return output

    def _is_recorded(self) -> bool:
        """Whether what was made knows of the gradients that are recorded here: networks may switch them on inside."""
        return self.with_gradients or not torch.is_grad_enabled()


class WeightBox(nn.Module):
    """N complete parameter sets for the blocks of one level: the paper's W of shape (N, P).

    The rows are kept as one tensor per parameter of the block, shape (N, *parameter shape), under the
    parameter's own name within the block: flattened and concatenated they are the (N, P) matrix. So a layer's
    weights can be made when the layer runs, and gradients touch no more than it used.

    Args:
        rows: {name of a layer within the block: {"weight": (N, ...), "bias": (N, ...)}}, or in a `LowRankBox` the
            parameters that it says; the name is "" where the block is itself a layer.

    Attributes:
        recompute: whether weights are made again in the backward pass instead of kept for it; None: where that costs
            little, of weights that are made when the layer runs.
    """

    recompute: bool | None = None

    def __init__(self, rows: Mapping[str, Mapping[str, nn.Parameter]]) -> None:
        super().__init__()
        self._layers = tuple(rows)
        for layer_name, parameters in rows.items():
            home: nn.Module = self
            for part in layer_name.split(".") if layer_name else ():
                home = cast(nn.Module, own_modules(home).setdefault(part, nn.Module()))
            for name, parameter in parameters.items():
                home.register_parameter(name, parameter)

    def forward(
        self,
        layer_name: str,
        selecting: Tensor,
        block: int = 0,
        prepare: Prepare | None = None,
        input: Tensor | None = None,
        **settings: Any,
    ) -> Any:
        """Per-image weight and bias of one layer, w = Σ_i V_s[i] W[i] (paper, equation 4), or what it computes by them.

        The layer is computed in here because sharded parameters exist during a call of their module alone, and its
        backward pass needs them again.

        Args:
            layer_name: the layer's name within the block.
            selecting: selecting vectors, shape (B, N).
            block: the block's position in its level; here all blocks share all rows.
            prepare: makes the operation that the layer computes; None for the weights themselves.
            input: of the layer, shape (k·B, ...).
            settings: of the operation.

        Returns:
            Weight (B, *shape) and bias (B, out) or None; with `prepare` the layer's output.
        """
        parameters = self._parameters_of(layer_name, block)
        if prepare is None:
            return self._generate(selecting.to(parameters[0].device), *parameters)
        assert input is not None
        return self.compute(selecting, parameters, prepare, input, settings)

    def compute(
        self,
        selecting: Tensor,
        parameters: tuple[Tensor, ...],
        prepare: Prepare,
        input: Tensor,
        settings: Mapping[str, Any],
        tuning: Chooser | None = None,
    ) -> Tensor:
        """What one layer computes.

        Args:
            selecting: selecting vectors, shape (B, N).
            parameters: what the layer's weights are made of.
            prepare: makes the operation.
            input: shape (k·B, ...).
            settings: of the operation.
            tuning: chooses kernels; None for the rules.
        """
        selecting = selecting.to(parameters[0].device)
        input, operation = prepare(input, self._kernel(parameters[0]), **settings)
        output = self._by_outputs(operation, input, selecting, parameters)
        if output is not None:
            return output
        if self._recomputes(operation, input, selecting, parameters):
            return recomputed(operation, input, self._generate, selecting, *parameters, tuning=tuning)
        return applied(operation, input, *self._generate(selecting, *parameters), tuning)

    def weights_of_blocks(self, selecting: Tensor, *, ahead: bool, tuning: Chooser | None = None) -> list[BlockWeights]:
        """What the layers of each of the M blocks compute with in one forward. Not for sharded boxes.

        Made ahead, the weights of all blocks are one product for each parameter, which reads the rows once. Else each
        block gets its part of the parameters. These are cut for all blocks at once, since a block that cuts its own
        part out of the whole would have a gradient as large as that.

        Args:
            selecting: shape (B, M, N).
            ahead: whether weights are made here, before the layers run.
            tuning: chooses kernels; None for the rules.
        """
        images, blocks = selecting.shape[:2]
        vectors = selecting.transpose(0, 1)
        weights = [BlockWeights(self, m, v, tuning) for m, v in enumerate(vectors.unbind())]
        is_single = not is_symbolic(images) and images == 1
        for layer_name in self._layers:
            rows = self._rows(layer_name)
            if ahead:
                made = self._generate_for_blocks(vectors.to(rows.weight.device), rows)
                parts = (t.squeeze(1).unbind() if is_single else t.unbind() for t in made)
                for block, weight, *bias in zip(weights, *parts, strict=True):
                    by_layer = block.shared if is_single else block.own
                    by_layer[layer_name] = weight, bias[0] if bias else None
            else:
                for block, parameters in zip(weights, self._parts(rows, blocks), strict=True):
                    block.parameters[layer_name] = parameters
        return weights

    def pays_ahead(self, selecting: Tensor, left: int) -> int | None:
        """Bytes of what `weights_of_blocks` makes ahead, or None where that is not to be done.

        The weights of a single GIV are no more numbers than the network itself had. For several images small networks
        wait for calls, of which one product for all blocks saves most: on GPUs for kernels to be started. On CPUs large
        weights are made when their layer runs, which finds them in its caches.

        Args:
            selecting: shape (B, M, N).
            left: bytes that there are for several images.
        """
        images, blocks = selecting.shape[:2]
        if (self.recompute and torch.is_grad_enabled()) or is_symbolic(images):
            return None
        if images == 1:
            return 0
        rows = [self._rows(name).weight for name in self._layers]
        size = images * blocks * sum(math.prod(w.shape[1:]) * w.element_size() for w in rows)
        pays = size <= _SMALL_LEVEL if rows[0].device.type == "cpu" else blocks > 1
        return size if pays and size <= left else None

    def _generate_for_blocks(self, selecting: Tensor, rows: Any) -> list[Tensor]:
        """One layer's weights (M, B, *shape), and biases (M, B, out) if it has some, for vectors (M, B, N)."""
        return [mix(selecting, parameter) for parameter in self._members(rows)]

    def _parts(self, rows: Any, blocks: int) -> Iterable[tuple[Tensor, ...]]:
        """What the weights of one layer are made of, for each block."""
        return [self._members(rows)] * blocks

    @staticmethod
    def _members(rows: Any) -> tuple[Tensor, ...]:
        bias = getattr(rows, "bias", None)
        return (rows.weight,) if bias is None else (rows.weight, bias)

    def _parameters_of(self, layer_name: str, block: int) -> tuple[Tensor, ...]:
        """What the weights of one layer are made of, as arguments of `_generate`."""
        return self._members(self._rows(layer_name))

    def _rows(self, layer_name: str) -> Any:
        """The module that holds one layer's parameters, as attributes: replicas of `nn.DataParallel` have no others."""
        home: Any = self
        for part in layer_name.split(".") if layer_name else ():
            home = own_modules(home)[part]
        return home

    @staticmethod
    def _generate(selecting: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        weight, *biases = (mix(selecting, rows) for rows in parameters)
        return weight, biases[0] if biases else None

    @staticmethod
    def _kernel(weight: Tensor) -> Sequence[int]:
        """The size of a convolution's kernel."""
        return weight.shape[3:]

    @staticmethod
    def _by_outputs(
        operation: Operation, input: Tensor, selecting: Tensor, parameters: tuple[Tensor, ...]
    ) -> Tensor | None:
        """The layer's output by the other side of the distributive law, where that takes less time."""
        if not outputs_are_cheaper(operation, input, selecting, parameters[0]):
            return None
        return mix_outputs(operation, input, selecting, *parameters)

    def _recomputes(
        self, operation: Operation, input: Tensor, selecting: Tensor, parameters: tuple[Tensor, ...]
    ) -> bool:
        if not is_possible(input, selecting, *parameters):
            return False
        if self.recompute is not None:
            return self.recompute
        return is_worthwhile(operation, input, selecting.shape[0], self._terms(parameters))

    @staticmethod
    def _terms(parameters: tuple[Tensor, ...]) -> int:
        """By how many multiplications one number of a weight is made."""
        return parameters[0].shape[0]

    @torch.no_grad()
    def rows_agree(self) -> bool:
        """Whether all rows are the same, so that every selecting vector gives the same weights."""
        return all(bool((p == p[:1]).all()) for p in self.parameters())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WeightBox:
        """Convert rows as matrices: `to(memory_format=...)` is meant for kernels, and refuses a stack of them."""
        super()._apply(lambda rows: fn(rows.flatten(1)).reshape(rows.shape), recurse)  # type: ignore[no-untyped-call]
        return self


class LowRankBox(WeightBox):
    """A Weight Box whose rows differ by matrices of low rank: for block m, row i is W_m + A_mi B_mi.

    The whole weights W_m are as many as the blocks had; the rows add only their factors. Since selecting vectors sum
    to 1, block m's weight for an image is W_m + Σ_i V_s[i] A_mi B_mi. Each layer owns `weight` (M, *shape), `left`
    (M, N, out, rank), `right` (M, N, rank, columns), and with a bias `bias` (M, out) and `bias_change` (M, N, out).
    (In models saved by hairify 0.1 the factors were the same for all blocks, and have a first dimension of 1.)
    """

    def factors(self) -> Iterator[nn.Parameter]:
        """The parameters by which the rows differ."""
        return (p for name, p in self.named_parameters() if name.rpartition(".")[2] in FACTORS)

    def rows_agree(self) -> bool:
        """Whether all rows are the same: the left factors and changes of biases are zero."""
        return not any(
            p.any() for name, p in self.named_parameters() if name.rpartition(".")[2] in ("left", "bias_change")
        )

    def _parameters_of(self, layer_name: str, block: int) -> tuple[Tensor, ...]:
        return tuple(p[block if len(p) > 1 else 0] for p in self._members(self._rows(layer_name)))

    def _generate_for_blocks(self, selecting: Tensor, rows: Any) -> list[Tensor]:
        weight, left, right, *biases = self._members(rows)
        made = [mix_low_rank_of_blocks(selecting, weight, left, right)]
        return [*made, mix_of_blocks(selecting, *biases)] if biases else made

    def _parts(self, rows: Any, blocks: int) -> Iterable[tuple[Tensor, ...]]:
        parts = (p.unbind() if len(p) == blocks else (p[0],) * blocks for p in self._members(rows))
        return zip(*parts, strict=True)

    @staticmethod
    def _members(rows: Any) -> tuple[Tensor, ...]:
        bias = getattr(rows, "bias", None)
        return (rows.weight, rows.left, rows.right, *(() if bias is None else (bias, rows.bias_change)))

    @staticmethod
    def _generate(selecting: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        weight, left, right, *biases = parameters
        changed = mix_low_rank(selecting, weight, left, right)
        if not biases:
            return changed, None
        bias, bias_change = biases
        return changed, bias + mix(selecting, bias_change)

    @staticmethod
    def _kernel(weight: Tensor) -> Sequence[int]:
        return weight.shape[2:]

    @staticmethod
    def _by_outputs(
        operation: Operation, input: Tensor, selecting: Tensor, parameters: tuple[Tensor, ...]
    ) -> Tensor | None:
        return None  # it would take N·rank thin channels more on the whole map, which measured slower

    @staticmethod
    def _terms(parameters: tuple[Tensor, ...]) -> int:
        _, left, *_ = parameters
        return left.shape[0] * left.shape[2]
