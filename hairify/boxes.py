"""Weight Boxes and Hyper Selecting Nets (paper, section 3.1.2)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hairify.errors import OptionError
from hairify.kernels import per_image
from hairify.mixing import mix, mix_low_rank, mix_outputs, mixes_outputs
from hairify.operations import Operation, Prepare
from hairify.precision import full_precision
from hairify.recomputation import is_possible, pays, recomputed

_SPREAD = 2.0
FACTORS = ("left", "right", "bias_change")
"""Names of the parameters by which rows of a low-rank box differ."""


class WeightBox(nn.Module):
    """N complete parameter sets for the blocks of one level: the paper's W of shape (N, P).

    The rows are kept as one tensor per parameter of the block, shape (N, *parameter shape), under the
    parameter's own name within the block: flattened and concatenated they are the (N, P) matrix. So a layer's
    weights are made when the layer runs, and gradients touch no more than it used.

    Args:
        rows: {name of a layer within the block: {"weight": (N, ...), "bias": (N, ...)}}, or in a `LowRankBox` the
            parameters that it says; the name is "" where the block is itself a layer.

    Attributes:
        recompute: whether weights are made again in the backward pass instead of kept for it; None: where that costs
            little.
    """

    recompute: bool | None = None

    def __init__(self, rows: Mapping[str, Mapping[str, nn.Parameter]]) -> None:
        super().__init__()
        for entry, parameters in rows.items():
            home: nn.Module = self
            for part in entry.split(".") if entry else ():
                home = home._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
            for name, parameter in parameters.items():
                home.register_parameter(name, parameter)

    def forward(
        self,
        entry: str,
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
            entry: the layer's name within the block.
            selecting: selecting vectors, shape (B, N).
            block: the block's position in its level; here all blocks share all rows.
            prepare: makes the operation that the layer computes; None for the weights themselves.
            input: of the layer, shape (k·B, ...).
            settings: of the operation.

        Returns:
            Weight (B, *shape) and bias (B, out) or None; with `prepare` the layer's output.
        """
        parameters = self._parameters_of(entry, block)
        selecting = selecting.to(parameters[0].device)
        if prepare is None:
            return self._generate(selecting, *parameters)
        assert input is not None
        input, operation = prepare(input, self._kernel(parameters[0]), **settings)
        output = self._by_outputs(operation, input, selecting, parameters)
        if output is not None:
            return output
        if self._recomputes(operation, input, selecting, parameters):
            return recomputed(operation, input, self._generate, selecting, *parameters)
        return per_image(operation, input, *self._generate(selecting, *parameters))

    def _parameters_of(self, entry: str, block: int) -> tuple[Tensor, ...]:
        """What the weights of one layer are made of, as arguments of `_generate`."""
        rows = self._rows(entry)
        bias = getattr(rows, "bias", None)
        return (rows.weight,) if bias is None else (rows.weight, bias)

    def _rows(self, entry: str) -> Any:
        """The module that holds one layer's parameters, as attributes: replicas of `nn.DataParallel` have no others."""
        home: Any = self
        for part in entry.split(".") if entry else ():
            home = home._modules[part]
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
        if not mixes_outputs(operation, input, selecting, parameters[0]):
            return None
        return mix_outputs(operation, input, selecting, *parameters)

    def _recomputes(
        self, operation: Operation, input: Tensor, selecting: Tensor, parameters: tuple[Tensor, ...]
    ) -> bool:
        if not is_possible(input, selecting, *parameters):
            return False
        if self.recompute is not None:
            return self.recompute
        return pays(operation, input, selecting.shape[0], self._terms(parameters))

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

    def _parameters_of(self, entry: str, block: int) -> tuple[Tensor, ...]:
        rows = self._rows(entry)
        bias = getattr(rows, "bias", None)
        own = block if rows.left.shape[0] > 1 else 0
        biases = () if bias is None else (bias[block], rows.bias_change[own])
        return rows.weight[block], rows.left[own], rows.right[own], *biases

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


class HyperSelectingNet(nn.Module):
    """The HSNs of one level's M blocks, run as one: GIV → selecting vectors (paper, equation 3).

    Each is a fully connected net with GELU between its layers and a softmax at the end; D → D/2 → D/4 → D/8 → N as
    published, D → 32 → N by default. It computes in its parameters' own precision also under autocast, as the mixing
    does.

    Logits that grow without end saturate the softmax: one row is chosen for all images, passes on no gradient by which
    another could be, and is never left again (docs/conditioning.md, "Long trainings"). So by default their mean is
    taken off, which the softmax does not see, and their root mean square r over the rows held under the limit l, by
    1 / √(1 + r²/l²): where they point is learned, however far they go.

    Args:
        giv_dim: D.
        blocks: M.
        box_size: N.
        hidden: widths of the hidden layers.
        limit: l; None leaves logits as they are, as published. A row has 97 % of the mixture at most for l = 2 and
            N = 4; the more rows, the more (99.6 % for N = 16).

    Raises:
        OptionError: the limit is no number above 0.
    """

    def __init__(
        self, giv_dim: int, blocks: int, box_size: int, hidden: Sequence[int], limit: float | None = None
    ) -> None:
        super().__init__()
        if limit is not None and not 0 < limit < math.inf:
            raise OptionError(f"The limit of an HSN's logits is {limit!r}; accepted are numbers above 0, and None.")
        self.limit = limit
        widths = [giv_dim, *hidden, box_size]
        self.layers = nn.ModuleList(StackedLinear(blocks, *sizes) for sizes in itertools.pairwise(widths))

    @property
    def spread_at_start(self) -> float:
        """Standard deviation over images of the logits with which it tells them apart at the start.

        Of twice the limit, the softmax sees some eight tenths of the limit (for N = 4): with a limit of 2 about as much
        as without one.
        """
        return _SPREAD if self.limit is None else 2 * self.limit

    def forward(self, giv: Tensor) -> Tensor:
        """Map the GIV (B, D) to the selecting vectors (B, M, N): positive, with sum 1 over N."""
        with full_precision(giv.device):
            x = giv.unsqueeze(0)
            for i, layer in enumerate(self.layers):
                x = layer(F.gelu(x) if i else x)
            return self.vectors_of(x).transpose(0, 1)

    def vectors_of(self, logits: Tensor) -> Tensor:
        """Map logits (..., N) to selecting vectors (..., N): their softmax, within the limit."""
        if self.limit is None:
            return logits.softmax(dim=-1)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))  # squares of half precision overflow
        wide = wide - wide.mean(dim=-1, keepdim=True)
        wide = wide * (1 + wide.square().mean(dim=-1, keepdim=True) / self.limit**2).rsqrt()
        return wide.softmax(dim=-1).to(logits.dtype)

    def logits_of(self, selecting: Tensor) -> Tensor:
        """Logits (..., N) of mean 0 that `vectors_of` maps to these selecting vectors, whose numbers are all above 0.

        Raises:
            ValueError: a vector is nearer to a single row than the limit allows.
        """
        logits = selecting.log()
        logits = logits - logits.mean(dim=-1, keepdim=True)
        if self.limit is None:
            return logits
        remaining = 1 - logits.square().mean(dim=-1, keepdim=True) / self.limit**2
        if not (remaining > 0).all():
            raise ValueError(f"Logits of these selecting vectors are beyond the limit {self.limit}.")
        return logits * remaining.rsqrt()

    def selects(self) -> bool:
        """Whether selecting vectors depend on the GIV."""
        return bool(cast(StackedLinear, self.layers[-1]).weight.any())

    @torch.no_grad()
    def calibrate(self, giv: Tensor) -> None:
        """Scale and shift each unit so that its outputs have mean 0 and variance 1 over these GIVs.

        So each layer passes on what tells images apart as strongly as it received it. Where the last layer has
        weights other than zero, its logits get mean 0 and the standard deviation `spread_at_start`.

        Args:
            giv: shape (B, D), of two images at least.
        """
        x = giv.unsqueeze(0)
        layers = [cast(StackedLinear, layer) for layer in self.layers]
        last = layers[-1] if self.selects() else None
        with full_precision(giv.device):
            for i, layer in enumerate(layers if last else layers[:-1]):
                x = F.gelu(x) if i else x
                deviation, mean = torch.std_mean(layer(x).cpu().double(), dim=1)  # not all devices have float64
                scale = torch.where(deviation > 1e-6, (self.spread_at_start if layer is last else 1.0) / deviation, 1.0)
                layer.weight.mul_(scale.to(layer.weight).unsqueeze(2))
                layer.bias.copy_((layer.bias.cpu().double() - mean) * scale)
                x = layer(x)


class StackedLinear(nn.Module):
    """M linear layers side by side.

    They start with biases of zero and weights that keep the variance of inputs of mean 0 and variance 1, so that what
    depends on the image is not drowned by what does not (Chang et al., ICLR 2020). PyTorch's own start makes it four
    times weaker in each layer.

    Args:
        blocks: M.
        in_features: of each.
        out_features: of each.
    """

    def __init__(self, blocks: int, in_features: int, out_features: int) -> None:
        super().__init__()
        deviation = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(blocks, out_features, in_features).normal_(std=deviation))
        self.bias = nn.Parameter(torch.zeros(blocks, out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map (M or 1, B, in_features) to (M, B, out_features)."""
        x = x.to(self.weight.dtype).expand(self.weight.shape[0], -1, -1)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))


class GIVStandardization(nn.Module):
    """Shifts and scales GIVs to mean 0 and variance 1 over the images that `HairModel.calibrate` was given.

    A hypernetwork learns from what differs between its inputs; what they have in common, in the published form thirty
    times as large, only adds to its biases (Ortiz et al., 2023). The numbers are buffers: in training, too, an image's
    GIV does not depend on the others of its batch. Uncalibrated, GIVs pass as they are.

    Args:
        giv_dim: D.
    """

    mean: Tensor
    scale: Tensor
    images: Tensor

    def __init__(self, giv_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(giv_dim))
        self.register_buffer("scale", torch.ones(giv_dim))
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))

    @property
    def is_calibrated(self) -> bool:
        """Whether `calibrate` was called."""
        return not self.images.is_meta and bool(self.images)

    def forward(self, giv: Tensor) -> Tensor:
        """Map a DAC's output (B, D) to GIVs (B, D)."""
        return (giv.to(self.mean.dtype) - self.mean) * self.scale

    @torch.no_grad()
    def calibrate(self, giv: Tensor) -> None:
        """Bring these GIVs (B, D) to mean 0 and variance 1; a number that does not vary gets scale 1."""
        giv = giv.detach().cpu().double()  # not all devices have float64
        deviation, mean = torch.std_mean(giv, dim=0)
        varies = deviation > 1e-6 * giv.abs().amax(0).clamp(min=1e-12)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(varies, 1 / deviation, 1.0))
        self.images.fill_(len(giv))

    def extra_repr(self) -> str:
        """D."""
        return str(len(self.mean))
