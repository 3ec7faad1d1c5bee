"""AirNet (Li et al., CVPR 2022): a contrastive encoder of the degradation, and a restorer guided by what it saw."""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hairify.errors import OptionError
from hairify.models._deformable import modulated_deform_conv2d
from hairify.models._options import check_counts

QUEUE = "E.E.queue"
"""The queue of keys in AirNet's state_dict."""

_SLOPE = 0.1  # of every LeakyReLU
_EMBEDDING = 256
_KEYS_PER_IMAGE = 256  # in the queue, for each image of the batch that it was trained with

Output: TypeAlias = Tensor | tuple[Tensor, Tensor, Tensor]


def airnet(
    *,
    batch_size: int = 3,
    dim: int = 64,
    groups: int = 5,
    blocks: int = 5,
    momentum: float = 0.999,
    temperature: float = 0.07,
) -> AirNet:
    """AirNet; with the defaults the published network of 8,930,313 parameters, 7,610,377 of them trained.

    Args:
        batch_size: sizes the queue of keys, K = 256 · batch_size. It is a buffer, so a checkpoint tells it.
        dim: channels of the restorer.
        groups: of blocks in the restorer.
        blocks: in each group.
        momentum: by which the key encoder follows the query encoder.
        temperature: of the contrastive logits.

    Raises:
        OptionError: an argument has a value that is not accepted.
    """
    check_counts(batch_size=batch_size, dim=dim, groups=groups, blocks=blocks)
    if not 0 <= momentum <= 1 or temperature <= 0:
        raise OptionError(
            f"`momentum` is {momentum} and `temperature` {temperature}; accepted are [0, 1] and positive numbers."
        )
    return AirNet(dim, groups, blocks, _KEYS_PER_IMAGE * batch_size, momentum, temperature)


def batch_size_of(queue: Tensor) -> int | None:
    """The `batch_size` of the `airnet` that has such a queue (256, K), or None where none has."""
    batch_size, rest = divmod(queue.shape[-1] if queue.ndim == 2 else 0, _KEYS_PER_IMAGE)
    return batch_size if batch_size and not rest else None


class AirNet(nn.Module):
    """Encoder `E` and restorer `R`; made by `airnet`."""

    def __init__(
        self, dim: int, groups: int, blocks: int, queue_size: int, momentum: float, temperature: float
    ) -> None:
        super().__init__()
        self.R = Restorer(dim, groups, blocks)
        self.E = Encoder(dim, queue_size, momentum, temperature)

    def forward(self, query: Tensor, key: Tensor) -> Output:
        """Restore `query`.

        Args:
            query: degraded images, (B, 3, H, W), usually in [0, 1].
            key: other patches of the same degraded images, of the same shape, which the contrastive loss is to hold
                together with `query`. In evaluation mode it is not looked at: give `query` again.

        Returns:
            The restored images (B, 3, H, W); in training mode with the logits (B, 1 + K) of `query` against its own key
            and the queued ones, and the labels (B,), all zero, for a cross-entropy loss beside the L1 loss.
        """
        logits, labels, inter = self.E(query, key)
        restored: Tensor = self.R(query, inter)
        return (restored, logits, labels) if self.training else restored


class Encoder(nn.Module):
    """Holds the contrastive encoder under its published name."""

    def __init__(self, dim: int, queue_size: int, momentum: float, temperature: float) -> None:
        super().__init__()
        self.E = MoCo(dim, queue_size, momentum, temperature)

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        return self.E(query, key)


class MoCo(nn.Module):
    """Momentum contrast (He et al., CVPR 2020) between two patches of an image.

    Args:
        dim: channels of the feature for the restorer.
        queue_size: K, the number of earlier keys to tell a query from.
        momentum: the key encoder is momentum · itself + (1 − momentum) · the query encoder.
        temperature: by which similarities are divided.
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(self, dim: int, queue_size: int, momentum: float, temperature: float) -> None:
        super().__init__()
        self.momentum, self.temperature = momentum, temperature
        self.encoder_q, self.encoder_k = ResEncoder(dim), ResEncoder(dim)
        self.encoder_k.load_state_dict(self.encoder_q.state_dict())
        self.encoder_k.requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(_EMBEDDING, queue_size), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Two images (B, 3, H, W) to logits (B, 1 + K) and labels (B,), None in evaluation mode, and `inter`."""
        embedding, inter = self.encoder_q(query)
        if not self.training:
            return None, None, inter
        queries = F.normalize(embedding, dim=1)
        with torch.no_grad():
            self._follow()
            keys = F.normalize(self.encoder_k(key)[0], dim=1)
        own = (queries * keys).sum(1, keepdim=True)
        others = queries @ self.queue.clone()  # cloned: the keys that come in would change what backward needs
        logits = torch.cat([own, others], 1) / self.temperature
        self._enqueue(keys)
        return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device), inter

    def _follow(self) -> None:
        """Move the key encoder a little towards the query encoder."""
        for q, k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            k.lerp_(q, 1 - self.momentum)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """Put keys (B, 256) in the place of the oldest, around the end of the queue where need be."""
        size = self.queue.shape[1]
        keys = keys[-size:]
        places = (self.queue_ptr + torch.arange(len(keys), device=keys.device)) % size
        self.queue[:, places] = keys.T.to(self.queue.dtype)
        self.queue_ptr.copy_((self.queue_ptr + len(keys)) % size)


class ResEncoder(nn.Module):
    """Images (B, 3, H, W) to an embedding (B, 256) and the feature `inter` (B, C, H, W)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.E_pre = ResBlock(3, dim, stride=1)
        self.E = nn.Sequential(
            ResBlock(dim, 128, stride=2), ResBlock(128, _EMBEDDING, stride=2), nn.AdaptiveAvgPool2d(1)
        )
        self.mlp = nn.Sequential(
            nn.Linear(_EMBEDDING, _EMBEDDING), nn.LeakyReLU(_SLOPE), nn.Linear(_EMBEDDING, _EMBEDDING)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        inter = self.E_pre(image)
        return self.mlp(self.E(inter).flatten(1)), inter


class ResBlock(nn.Module):
    """(B, C, H, W) to (B, out, H/stride, W/stride)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.backbone(x) + self.shortcut(x), _SLOPE)


class Restorer(nn.Module):
    """Images (B, 3, H, W) and `inter` (B, C, H, W) to restored images (B, 3, H, W)."""

    def __init__(self, dim: int, groups: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, dim, 3, padding=1))
        self.body = nn.ModuleList([*(Group(dim, blocks) for _ in range(groups)), nn.Conv2d(dim, dim, 3, padding=1)])
        self.tail = nn.Sequential(nn.Conv2d(dim, 3, 3, padding=1))

    def forward(self, image: Tensor, inter: Tensor) -> Tensor:
        *groups, last = self.body
        x = head = self.head(image)
        for group in groups:
            x = group(x, inter)
        return self.tail(last(x) + head)


class Group(nn.Module):
    """Blocks and a convolution, added to their input; shapes are kept, as in all that follows."""

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        self.body = nn.ModuleList([*(Block(dim) for _ in range(blocks)), nn.Conv2d(dim, dim, 3, padding=1)])

    def forward(self, x: Tensor, inter: Tensor) -> Tensor:
        *blocks, last = self.body
        skip = x
        for block in blocks:
            x = block(x, inter)
        return last(x) + skip


class Block(nn.Module):
    """Two guided modules and two convolutions, added to their input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dgm1, self.dgm2 = GuidedModule(dim), GuidedModule(dim)
        self.conv1, self.conv2 = (nn.Conv2d(dim, dim, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, inter: Tensor) -> Tensor:
        out = F.leaky_relu(self.dgm1(x, inter), _SLOPE)
        out = F.leaky_relu(self.conv1(out), _SLOPE)
        out = F.leaky_relu(self.dgm2(out, inter), _SLOPE)
        return self.conv2(out) + x


class GuidedModule(nn.Module):
    """Degradation-guided module: a deformable convolution and a modulation, both told by `inter`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dcn, self.sft = DeformableConv(dim), Modulation(dim)

    def forward(self, x: Tensor, inter: Tensor) -> Tensor:
        return x + self.dcn(x, inter) + self.sft(x, inter)


class DeformableConv(nn.Module):
    """A modulated deformable 3×3 convolution, its offsets and mask from x and `inter`; it starts regular, halved."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(dim, dim, 3, 3), a=5**0.5))  # as nn.Conv2d
        self.conv_offset_mask = nn.Conv2d(2 * dim, 27, 3, padding=1)
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, inter: Tensor) -> Tensor:
        offset, mask = self.conv_offset_mask(torch.cat([x, inter], 1)).split([18, 9], 1)
        return modulated_deform_conv2d(x, offset, mask.sigmoid(), self.weight)


class Modulation(nn.Module):
    """Spatial feature transform: x · γ(inter) + β(inter)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv_gamma, self.conv_beta = (
            nn.Sequential(nn.Conv2d(dim, dim, 1, bias=False), nn.LeakyReLU(_SLOPE), nn.Conv2d(dim, dim, 1, bias=False))
            for _ in range(2)
        )

    def forward(self, x: Tensor, inter: Tensor) -> Tensor:
        return x * self.conv_gamma(inter) + self.conv_beta(inter)
