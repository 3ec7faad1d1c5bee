"""Networks made to trap a converter, each with what must come of it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from laws import MakeInputs, Specimen, images
from networks import Chain, UNet
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

SMALL = ((16, 24), (40, 16))
BEFORE, ORDER, PARAMETRISED = "before the split", "not ordered by image", "parametrised"
NO_IMAGE = "comes from no image"
OUTSIDE, NEVER, NO_FEATURE = "read from outside", "never called", "does not depend"
TIED, CLASS, FUSED, STRAY = "tied to that of", "is not among the classes", "does not compute the same", "repeated block"


@dataclass(frozen=True)
class Trap:
    """A network and what conversion must make of it.

    Attributes:
        specimen: the network.
        refused: part of the message where the whole network cannot be converted.
        left_alone: every layer after the split that stays as it is, with a part of the reason.
        split: the split chosen.
    """

    specimen: Specimen
    refused: str | None = None
    left_alone: dict[str, str] = field(default_factory=dict)
    split: str | None = None


def trap(
    build: Callable[[], nn.Module],
    *,
    inputs: MakeInputs | None = None,
    channels: int = 3,
    refused: str | None = None,
    split: str | None = "split",
    left_alone: dict[str, str] | None = None,
    example: bool = False,
    **options: Any,
) -> Trap:
    """With `example`, the network is shown an input of its own; `split` is what must be chosen, by name or not."""
    inputs = inputs or images(channels)
    if example:
        shown = inputs(1, SMALL[0])
        options["example_inputs"] = shown
    return Trap(Specimen(build, inputs, SMALL, options), refused, left_alone or {}, None if refused else split)


def conv(c_in: int = 8, c_out: int = 8, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, **{"padding": kernel // 2, **options})


def pair() -> nn.Sequential:
    return nn.Sequential(conv(), nn.ReLU(inplace=True), conv())


# Control flow and state.


class Branching(Chain):
    """Python decides by shapes; attributes of every kind are assigned on the way."""

    def forward(self, image: Tensor) -> Tensor:
        self.size, self.mean, self.calls = image.shape[-2:], image.mean((2, 3), keepdim=True), []
        if self.size[0] > self.size[1]:
            image = image - self.mean
        self.skip = self.head(image)
        for i, layer in enumerate([self.split, *self.body] if image.shape[-1] % 2 == 0 else []):
            self.skip = layer(self.skip)
            self.calls.append((i, self.skip))
        return image + F.pixel_shuffle(self.last(self.calls[-1][1]), 2)


class Overwriting(Chain):
    """Writes into the image, into F_g, and into what hyper layers return."""

    def forward(self, image: Tensor) -> Tensor:
        image.clamp_(0.2, 0.8).sub_(0.5)
        feature = self.split(self.head(image))
        feature.mul_(2)
        feature += 1
        y = self.body[0](feature)
        y[:, ::2] *= 0.5
        F.relu(y, inplace=True)
        y = self.body[1](y)
        y += feature
        return F.pixel_shuffle(self.last(y).clamp_(-1, 1), 2).add_(image)


class Routed(Chain):
    """Routes by values: masks for all, a branch never taken, a branch for each image, tokens picked by a mask."""

    def middle(self, x: Tensor) -> Tensor:
        a, b, never, each, masked, picked = self.body
        x = torch.where(x > 0, a(x), b(x))
        if x.abs().max() > 1e6:
            x = never(x)
        x = x + torch.cat([each(i[None]) if i.mean() > 1e6 else each(-i[None]) for i in x])
        tokens = x.flatten(2).transpose(1, 2).clone()
        mask = tokens[..., 0] > tokens[..., 1]
        tokens[mask] = masked(tokens[mask])
        best = tokens[..., 0].topk(5, dim=1).indices[..., None].expand(-1, -1, 8)
        tokens = tokens.scatter(1, best, picked(tokens.gather(1, best)))
        return tokens.transpose(1, 2).reshape(x.shape)


class Buffers(Chain):
    """Buffers that every forward moves, in evaluation mode too."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__(*body)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("running", torch.zeros(8), persistent=False)

    def middle(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.running = 0.9 * self.running + 0.1 * x.detach().mean((0, 2, 3))
        return super().middle(x) + (0 if self.calls > 0 else 1)


class Dice(nn.Module):
    """Stochastic depth: of each image, or one time more for all. Never none at all, so that every gradient arrives."""

    def __init__(self, each: bool) -> None:
        super().__init__()
        self.conv, self.each = conv(), each

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x + self.conv(x)
        if self.each:
            return x + self.conv(x) * (0.1 + (torch.rand(len(x), 1, 1, 1).to(x) < 0.5))
        x = x + self.conv(x)
        return x + self.conv(x) if torch.rand(()) < 0.5 else x


class OnlyInTraining(Chain):
    """In training mode, and only then, one layer's weight is read, one runs early, one runs at all."""

    def forward(self, image: Tensor) -> Tensor:
        y = self.head(image)
        if self.training:
            y = y + self.body[1](y)
        y = self.body[2](self.body[1](self.body[0](self.split(y))))
        if self.training:
            y = self.body[3](y) + 0.01 * self.body[0].weight.norm()
        return image + F.pixel_shuffle(self.last(y), 2)


# Layers and weights used in more than one place.


class Reused(Chain):
    """A block used twice, a layer used before and after the split, and a split that runs three times."""

    def forward(self, image: Tensor) -> Tensor:
        twice, around, after = self.body
        y = self.split(around(self.head(image)))
        y = around(twice(twice(y)))
        for _ in range(2):
            y = y + self.split(F.interpolate(y, scale_factor=2.0))
        return image + F.pixel_shuffle(self.last(after(y)), 2)


class Tied(Chain):
    """One Parameter in two layers, one bias in two, one that the model itself holds, one module under two names."""

    def __init__(self) -> None:
        super().__init__(*(conv() for _ in range(6)))
        self.body[1].weight = self.body[0].weight
        self.body[3].bias = self.body[2].bias
        self.kernel = self.body[4].weight
        self.twin = self.body[5]

    def middle(self, x: Tensor) -> Tensor:
        return self.twin(super().middle(x))


class Leaning(nn.Module):
    """A block with a convolution of its own, and one that it shares with its siblings."""

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.own, self.shared = conv(), shared

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shared(F.gelu(self.own(x)))


def shared_by_siblings(count: int) -> nn.Module:
    shared = conv(kernel=1)
    return Chain(*(Leaning(shared) for _ in range(count)))


class Functional(Chain):
    """Reads weights by function, in a hook, through a view and through `data`."""

    def __init__(self) -> None:
        super().__init__(*(conv() for _ in range(5)))
        self.body[1].register_forward_hook(lambda module, args, output: output * module.weight.norm())

    def middle(self, x: Tensor) -> Tensor:
        by_function, _, by_view, by_data, _ = self.body
        x = F.conv2d(x, by_function.weight, by_function.bias, padding=1)
        y = super().middle(x) * by_view.weight.view(-1)[:8].view(1, 8, 1, 1)
        return y + by_data.weight.data.mean()


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def doubled(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", Doubled())


class Recursive(nn.Module):
    """A module that calls itself, once for each scale."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.down, self.outward = conv(), conv(kernel=2, stride=2, padding=0), conv()

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        x = F.relu(self.inward(x))
        if not depth:
            return x
        return x + F.interpolate(self.outward(self(self.down(x), depth - 1)), scale_factor=2.0)


class SelfCalling(nn.Module):
    """The model itself runs again, on its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body, self.tail = conv(3), pair(), conv(8, 3)

    def forward(self, x: Tensor, again: int = 1) -> Tensor:
        y = x + self.tail(self.body(self.head(x)))
        return self(y, again - 1) if again else y


class Looped(nn.Module):
    """One residual unit, many times (DRRN): nothing but the tail runs for the first time late."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.unit, self.tail = conv(3), pair(), conv(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = first = self.head(x)
        for _ in range(5):
            y = first + self.unit(y)
        return x + self.tail(y)


# Inputs and outputs.


class Pair(NamedTuple):
    restored: Tensor
    others: dict[str, list[Tensor]]


class Returning(Chain):
    def __init__(self, output: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__(pair())
        self.output = output  # a lambda as an attribute

    def forward(self, image: Tensor) -> Any:
        feature = self.split(self.head(image))
        return self.output(image, feature, image + F.pixel_shuffle(self.last(self.middle(feature)), 2))


@dataclass
class Result:
    restored: Tensor


class AsksForBias(Chain):
    """What `make` wraps the output in must not hide that it changes without the bias."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__(conv(), conv())
        self.make = make

    def forward(self, image: Tensor) -> Any:
        y = super().forward(image) + (0 if self.body[0].bias is not None else 100)
        return self.make(y)


class Yielding(Chain):
    def forward(self, image: Tensor) -> Iterator[Tensor]:
        yield super().forward(image)


class NoiseMap(Chain):
    """FFDNet-like: an image and a map of one channel, at half the resolution."""

    def __init__(self) -> None:
        super().__init__(pair())
        self.level = conv(1, 8, 1)

    def forward(self, image: Tensor, sigma: Tensor) -> Tensor:
        y = self.split(self.head(image)) + self.level(F.avg_pool2d(sigma, 2))
        return image + F.pixel_shuffle(self.last(self.middle(y)), 2)


class Scaled(Chain):
    """Diffusion-like: a number for each image, whose logarithm is embedded, before and after the split."""

    def __init__(self) -> None:
        super().__init__(pair())
        self.early, self.late = nn.Linear(1, 8), nn.Linear(1, 8)

    def forward(self, image: Tensor, *, sigma: Tensor) -> Tensor:
        number = sigma.log()[:, None] / 4
        y = self.split(self.head(image) + self.early(number)[:, :, None, None])
        y = self.middle(y) * self.late(number)[:, :, None, None]
        return image + F.pixel_shuffle(self.last(y), 2)


class Optional(Chain):
    def __init__(self) -> None:
        super().__init__(conv(), conv())
        self.masked = conv(1, 8)

    def forward(self, image: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        y = self.middle(self.split(self.head(image)))
        if mask is not None:
            y = y * self.masked(F.avg_pool2d(mask, 2))
        return image + scale * F.pixel_shuffle(self.last(y), 2)


class FromDict(UNet):
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        return {"restored": super().forward(batch["image"]) * batch["gain"][:, None, None, None]}


class Infinite(Chain):
    """An output that is not finite, beside one that is."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        y = super().forward(image)
        return y, torch.zeros_like(y).log(), (-1 - y.abs()).sqrt()


def tensors_and(*others: Callable[[int, tuple[int, int]], Tensor]) -> MakeInputs:
    """Images first, then what the functions make of (batch, size)."""
    return lambda batch, size: (images()(batch, size), *(make(batch, size) for make in others))


def numbers(batch: int, size: tuple[int, int]) -> Tensor:
    return 0.02 + 0.1 * torch.rand(batch, dtype=torch.float64)


# The order of the batch.


class Folded(Chain):
    """Tokens in the order that `fold` gives them, for a linear layer; then back."""

    def __init__(self, fold: Callable[[Tensor], Tensor], unfold: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(nn.Linear(8, 8), conv())
        self.fold, self.unfold = fold, unfold

    def middle(self, x: Tensor) -> Tensor:
        return x + self.body[1](self.unfold(self.body[0](self.fold(x)), x))


class Windows(Chain):
    """4×4 windows in the batch, ahead of the images or after them, for a linear layer and a Conv1d."""

    def __init__(self, image_major: bool) -> None:
        super().__init__(nn.Linear(8, 8), nn.Conv1d(8, 8, 3, padding=1, padding_mode="circular"))
        self.order, self.back = ((0, 2, 4, 3, 5, 1), (0, 5, 1, 3, 2, 4)) if image_major else ((2, 4, 0, 3, 5, 1),) * 2
        if not image_major:
            self.back = (2, 5, 0, 3, 1, 4)

    def middle(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = x.view(b, c, h // 4, 4, w // 4, 4).permute(self.order)
        shape = y.shape
        y = self.body[0](y.reshape(-1, 16, c))
        y = self.body[1](y.transpose(1, 2)).transpose(1, 2)
        return x + y.reshape(shape).permute(self.back).reshape(x.shape)


class NeedsChannelsLast(Chain):
    """A `view` that only channels_last strides allow; the format comes with the input, or with the weight."""

    def __init__(self, layer: nn.Module, by_weight: bool = False) -> None:
        super().__init__(layer.to(memory_format=torch.channels_last) if by_weight else layer, nn.Linear(8, 8))
        self.format = torch.contiguous_format if by_weight else torch.channels_last

    def middle(self, x: Tensor) -> Tensor:
        y = self.body[0](x.contiguous(memory_format=self.format)).permute(0, 2, 3, 1)
        return x + self.body[1](y.view(-1, 8)).view(y.shape).permute(0, 3, 1, 2)


class OnNoImage(Chain):
    """The first layer of the body runs on the image, and on something that is none."""

    def __init__(self, kind: str) -> None:
        super().__init__(nn.Linear(8, 8), nn.Linear(8, 8))
        self.kind = kind
        self.tokens = nn.Parameter(torch.randn(4, 8))
        self.register_buffer("basis", torch.randn(2, 5, 5, 8))

    def middle(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        other = {"tokens": self.tokens, "identity": torch.eye(8, dtype=x.dtype), "basis": self.basis}.get(self.kind)
        if other is None:  # one for each image, the same for all
            other = self.tokens.expand(len(x), -1, -1)
            y = self.body[0](x).flatten(1, 2) @ self.body[0](other).mT @ other
            return self.body[1](y.unflatten(1, x.shape[1:3])).permute(0, 3, 1, 2)
        return self.body[1](self.body[0](x) / (1 + self.body[0](other).square().mean())).permute(0, 3, 1, 2)


class ByLargest(nn.Module):
    """Divides by the largest, or smallest, value of the batch, which may come from the same image always."""

    def __init__(self, net: nn.Module, smallest: bool) -> None:
        super().__init__()
        self.net, self.smallest = net, smallest

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x / (0.5 + (x.amin() if self.smallest else x.amax())))


class Experts(Chain):
    """The second expert gets what is rare: on the example inputs nothing."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 8), nn.Linear(8, 8))

    def middle(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1).clone()
        rare = x.norm(dim=-1) > 1e6
        x[rare] = self.body[1](x[rare])
        return (x + self.body[0](x)).permute(0, 3, 1, 2)


class Sorts(Chain):
    """The images of a batch in the order of their mean values, as routing to experts has them."""

    def __init__(self, descending: bool, in_evaluation: bool = True) -> None:
        super().__init__(conv(), conv())
        self.descending, self.in_evaluation = descending, in_evaluation

    def middle(self, x: Tensor) -> Tensor:
        if not (self.training or self.in_evaluation):
            return self.body[1](x + self.body[0](x))
        order = x.mean((1, 2, 3)).argsort(descending=self.descending)
        return self.body[1](x + self.body[0](x[order])[order.argsort()])


class Faint(nn.Module):
    """A deep fresh network: what tells images apart is far below the biases. Then the images are mixed a little."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.head, self.split, self.tail = conv(3), conv(), conv(8, 12)
        self.body = nn.Sequential(*(layer for _ in range(depth) for layer in (conv(), nn.ReLU())))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.head(F.avg_pool2d(x, 2)))
        return x + F.pixel_shuffle(self.tail(self.split(y + y.mean(0, keepdim=True))), 2)


class BehindZeros(Chain):
    """A layer that starts at zero, ahead of positions folded into the batch ahead of the images."""

    def __init__(self) -> None:
        super().__init__(conv(), nn.Linear(8, 8))
        for parameter in self.body[0].parameters():
            nn.init.zeros_(parameter)

    def middle(self, x: Tensor) -> Tensor:
        y = self.body[0](x).permute(2, 3, 0, 1)
        return x + self.body[1](y.reshape(-1, 1, 8)).view(y.shape).permute(2, 3, 0, 1)


class Position(nn.Module):
    """A map of positions, the same for all images: once, or as large as the batch."""

    def __init__(self, expand: bool) -> None:
        super().__init__()
        self.expand = expand

    def forward(self, x: Tensor) -> Tensor:
        position = torch.linspace(0, 1, x[0].numel(), dtype=x.dtype).view(1, *x.shape[1:])
        return position.expand_as(x) if self.expand else position


class Positioned(nn.Module):
    """The first module at the lowest resolution returns no feature of the images."""

    def __init__(self, expand: bool) -> None:
        super().__init__()
        self.head, self.position, self.blocks = conv(3), Position(expand), nn.ModuleList(pair() for _ in range(3))
        self.last = conv(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = F.avg_pool2d(self.head(x), 2)
        y = y + self.position(y)
        for block in self.blocks:
            y = y + block(y)
        return x + F.pixel_shuffle(self.last(y), 2)


class BatchStatistics(Chain):
    """BatchNorm without running statistics: images see each other in evaluation mode, too."""

    def __init__(self, early: bool) -> None:
        super().__init__(conv(), conv())
        self.norm, self.early = nn.BatchNorm2d(8, track_running_stats=False), early

    def forward(self, image: Tensor) -> Tensor:
        y = self.head(image)
        y = self.split(self.norm(y) if self.early else y)
        y = self.body[0](y)
        y = self.body[1](y if self.early else self.norm(y))
        return image + F.pixel_shuffle(self.last(y), 2)


# Modules of torch with ways of their own.


class Attentive(Chain):
    def __init__(self) -> None:
        super().__init__(conv())
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)

    def middle(self, x: Tensor) -> Tensor:
        t = x.flatten(2).transpose(1, 2)
        t = t + self.attention(t, t, t, need_weights=False)[0]
        t = self.decoder(self.encoder(t), t)
        return super().middle(t.transpose(1, 2).reshape(x.shape))


class Recurrent(Chain):
    """A GRU over rows and an LSTM, whose tokens come first, over columns; each with a linear layer."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(16, 8), nn.Linear(16, 8), conv())
        self.rows = nn.GRU(8, 8, batch_first=True, bidirectional=True)
        self.columns = nn.LSTM(8, 8, bidirectional=True)

    def middle(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = self.body[0](self.rows(x.permute(0, 2, 3, 1).reshape(b * h, w, c))[0])
        x = x + y.reshape(b, h, w, c).permute(0, 3, 1, 2)
        y = self.body[1](self.columns(x.permute(2, 0, 3, 1).reshape(h, b * w, c))[0])
        return self.body[2](x + y.reshape(h, b, w, c).permute(1, 3, 0, 2))


class Holders(nn.Sequential):
    """A Sequential with a forward of its own, a ModuleDict, a list that torch does not see into."""

    def __init__(self) -> None:
        super().__init__(conv(3), conv(kernel=2, stride=2, padding=0), pair(), conv(8, 12))
        self.by_name = nn.ModuleDict({"a": conv(), "b": conv(), "not[0]used*": conv()})
        self.hidden = [conv().double()]
        self.route = ("b", "a", "b")

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y = self[1](self[0](x))
        for name in self.route:
            y = self.by_name[name](y)
        return x + F.pixel_shuffle(self[3](self[2](self.hidden[0](y))), 2)


class Hooked(Chain):
    """The user's hooks change what the split, a block, a layer and its input are."""

    def __init__(self) -> None:
        super().__init__(pair(), pair(), conv())
        self.split.register_forward_hook(lambda module, args, output: output * 2 + 1)
        self.body[0].register_forward_hook(lambda module, args, output: output + args[0])
        self.body[1][0].register_forward_hook(lambda module, args, output: -output)
        self.body[2].register_forward_pre_hook(lambda module, args: (args[0].flip(-1),))


class LowPrecision(Chain):
    """bfloat16 inside, whatever comes in."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__(*body)
        self.body.bfloat16()

    def middle(self, x: Tensor) -> Tensor:
        return super().middle(x.bfloat16()).to(x.dtype)


class Autocast(Chain):
    def middle(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().middle(x).to(x.dtype)


class Checkpointed(Chain):
    """Gradient checkpointing that is switched off."""

    checkpointing = False

    def middle(self, x: Tensor) -> Tensor:
        for layer in self.body:
            x = checkpoint(layer, x, use_reentrant=False) if self.checkpointing else layer(x)
        return x


class Catching(Chain):
    """Whatever goes wrong in a layer, this network goes on."""

    def forward(self, image: Tensor) -> Tensor:
        y = self.head(image)
        with contextlib.suppress(RuntimeError):
            y = self.body[0](y[:, :1])
        try:
            y = self.split(y)
        except:  # noqa: E722  # on purpose
            y = F.avg_pool2d(y, 2)
        return image + F.pixel_shuffle(self.last(self.body[1](y)), 2)


class Popping(nn.Module):
    """The split returns a list, which the network then empties."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList([conv(3), conv(stride=2), conv(stride=2)])

        def forward(self, x: Tensor) -> list[Tensor]:
            return list(itertools.accumulate(self.stages, lambda y, stage: stage(y), initial=x))[1:]

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.ups, self.last = self.Encoder(), nn.ModuleList(conv() for _ in range(3)), conv(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        skips = self.encoder(x)
        y = skips.pop()
        for up in self.ups:
            y = up(y)
            if skips:
                y = F.interpolate(y, scale_factor=2.0).add_(skips.pop())
        return x + self.last(y)


# Architectures.


class Skip(nn.Module):
    """pix2pix's U-Net: each level holds the next; concatenation; in-place activations on the skips."""

    def __init__(self, outer: int, inner: int, inside: nn.Module | None, outermost: bool = False) -> None:
        super().__init__()
        self.outermost = outermost
        down = nn.Conv2d(3 if outermost else outer, inner, 4, 2, 1, bias=False)
        up = nn.ConvTranspose2d(inner * (1 if inside is None else 2), 3 if outermost else outer, 4, 2, 1)
        before = [] if outermost else [nn.LeakyReLU(0.2, inplace=True)]
        after = [nn.Tanh()] if outermost else [nn.BatchNorm2d(outer), nn.Dropout(0.1)]
        self.model = nn.Sequential(*before, down, *([] if inside is None else [inside]), nn.ReLU(True), up, *after)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


class MultiInput(nn.Module):
    """MIMO-UNet-like: smaller copies of the image enter on the way down, and leave on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.extract = nn.ModuleList([conv(3), conv(stride=2), conv(stride=2)])
        self.shallow = nn.ModuleList([conv(3, 8, 1), conv(3, 8, 1)])
        self.encoder, self.decoder = (nn.ModuleList(pair() for _ in range(3)) for _ in range(2))
        self.out = nn.ModuleList(conv(8, 3) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        images, skips, y = [x, F.avg_pool2d(x, 2), F.avg_pool2d(x, 4)], [], x
        for i, (extract, encoder) in enumerate(zip(self.extract, self.encoder, strict=True)):
            y = extract(y)
            y = encoder(y + self.shallow[i - 1](images[i]) if i else y)
            skips.append(y)
        outputs = []
        for i in (2, 1, 0):
            y = self.decoder[i](y + skips[i])
            outputs.append(images[i] + self.out[i](y))
            y = F.interpolate(y, scale_factor=2.0)
        return outputs[::-1]


class Supervised(nn.Module):
    """Supervised attention: an image comes out, and gates the features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.to_image, self.gate = conv(), conv(8, 3), conv(3, 8)

    def forward(self, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        restored = self.to_image(x) + image
        return self.conv(x) * torch.sigmoid(self.gate(restored)) + x, restored


class Progressive(nn.Module):
    """MPRNet-like: a stage on half images with shared weights, supervised attention, a stage on the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.shallow = nn.ModuleList([conv(3), conv(3)])
        self.down, self.up = conv(stride=2), nn.ConvTranspose2d(8, 8, 2, 2)
        self.stage1, self.stage2 = pair(), nn.ModuleList(pair() for _ in range(3))
        self.sam, self.fuse, self.last = Supervised(), conv(16, 8, 1), conv(8, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        halves = [self.up(self.stage1(self.down(self.shallow[0](half)))) for half in x.chunk(2, dim=3)]
        y, restored = self.sam(torch.cat(halves, 3), x)
        y = self.fuse(torch.cat([self.shallow[1](x), y], 1))
        for block in self.stage2:
            y = y + block(y)
        return [x + self.last(y), restored]


class Laplacian(nn.Module):
    """A Laplacian pyramid: the low frequencies by a net, the bands by masks made from it."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.mask = nn.Sequential(conv(3), pair(), pair(), conv(8, 3)), conv(6, 3)
        self.bands = nn.ModuleList(nn.Sequential(conv(3), nn.ReLU(True), conv(8, 3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        pyramid = [x, F.avg_pool2d(x, 2), F.avg_pool2d(x, 4)]
        y = pyramid[2] + self.low(pyramid[2])
        mask = self.mask(torch.cat([y, pyramid[2]], 1))
        for image, lower, band in zip(pyramid[1::-1], pyramid[:0:-1], self.bands, strict=True):
            detail = image - F.interpolate(lower, scale_factor=2.0)
            mask = F.interpolate(mask, scale_factor=2.0)
            y = F.interpolate(y, scale_factor=2.0) + detail * band(mask)
        return y


class Fourier(Chain):
    """Convolutions over the real and imaginary parts of a spectrum."""

    def middle(self, x: Tensor) -> Tensor:
        for layer in self.body[:-1]:
            spectrum = torch.fft.rfft2(x, norm="ortho")
            y = layer(torch.cat([spectrum.real, spectrum.imag], 1))
            x = x + torch.fft.irfft2(torch.complex(*y.chunk(2, 1)), s=x.shape[-2:], norm="ortho")
        return self.body[-1](x)


class Complex(Chain):
    """A convolution over complex numbers."""

    def __init__(self) -> None:
        super().__init__(conv())
        self.spectral = nn.Conv2d(8, 8, 1, dtype=torch.complex64)

    def double(self) -> Complex:
        super().double()
        self.spectral.to(torch.complex128)
        return self

    def middle(self, x: Tensor) -> Tensor:
        return super().middle(torch.fft.irfft2(self.spectral(torch.fft.rfft2(x)), s=x.shape[-2:]))


class Kernels(Chain):
    """Layers that predict kernels: one for each pixel, one for each image (dynamic convolution)."""

    def __init__(self) -> None:
        super().__init__(conv(8, 9), nn.Linear(8, 8 * 9), conv())

    def middle(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        weights = self.body[0](x).softmax(1).view(b, 1, 9, h, w)
        x = (F.unfold(x, 3, padding=1).view(b, c, 9, h, w) * weights).sum(2)
        kernels = self.body[1](x.mean((2, 3))).view(b * c, 1, 3, 3)
        x = x + F.conv2d(x.reshape(1, b * c, h, w), kernels, padding=1, groups=b * c).view(x.shape)
        return self.body[2](x)


class Resized(nn.Module):
    """Works at another resolution than its images have: smaller, larger, or in the channels."""

    def __init__(self, scale: float | None, channels: int = 3) -> None:
        super().__init__()
        self.scale, c = scale, channels * (1 if scale else 4)
        self.head, self.last = conv(c), conv(8, c)
        self.blocks = nn.Sequential(*(pair() for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        y = F.interpolate(x, scale_factor=self.scale, mode="bilinear") if self.scale else F.pixel_unshuffle(x, 2)
        y = self.last(self.blocks(self.head(y)))
        return x + (F.interpolate(y, size=size, mode="bilinear") if self.scale else F.pixel_shuffle(y, 2))


def frozen(model: nn.Module, *names: str) -> nn.Module:
    for name in names:
        model.get_submodule(name).requires_grad_(False)
    return model


def kinds() -> nn.Module:
    return Chain(
        conv(groups=4),
        conv(dilation=2, padding=2),
        conv(padding_mode="circular"),
        conv(padding_mode="reflect", groups=8),
        conv(kernel=4, padding="same", padding_mode="replicate"),
        nn.Conv2d(8, 8, (3, 1), padding="same", bias=False),
        nn.ConvTranspose2d(8, 8, 3, 1, 1, groups=2),
        nn.Sequential(conv(stride=2), nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1, bias=False)),
        nn.Sequential(nn.ConvTranspose2d(8, 8, 3, 1, 2, dilation=2), nn.ReplicationPad2d(0)),
    )


def tokens_first(x: Tensor) -> Tensor:
    return x.flatten(2).permute(2, 0, 1)


TRAPS: dict[str, Trap] = {
    "branches on shapes, assigns attributes": trap(lambda: Branching(conv(), conv())),
    "writes in place": trap(lambda: Overwriting(conv(), conv())),
    "routes by values": trap(
        lambda: Routed(*(conv() for _ in range(4)), nn.Linear(8, 8), nn.Linear(8, 8)),
        left_alone={"body.2": NEVER, "body.3": ORDER, "body.4": ORDER},
    ),
    "moves buffers": trap(lambda: Buffers(conv(), conv())),
    "dropout and BatchNorm": trap(
        lambda: Chain(*(nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU(True), nn.Dropout(0.3)) for _ in range(2))),
        left_alone={"last": STRAY},
    ),
    "stochastic depth": trap(lambda: Chain(*map(Dice, (True, True, False, False))), left_alone={"last": STRAY}),
    "only in training mode": trap(
        lambda: OnlyInTraining(*(conv() for _ in range(4))),
        left_alone={"body.0": OUTSIDE, "body.1": BEFORE, "body.3": NEVER},
    ),
    "uses layers again": trap(lambda: Reused(pair(), conv(), conv())),
    "ties weights": trap(Tied, left_alone={f"body.{i}": TIED for i in range(5)}),
    "siblings share a module": trap(lambda: shared_by_siblings(3), left_alone={"body.0.shared": STRAY, "last": STRAY}),
    "many siblings share a module": trap(
        lambda: shared_by_siblings(12), left_alone={"body.0.shared": STRAY, "last": STRAY}
    ),
    "reads weights outside": trap(Functional, left_alone={f"body.{i}": OUTSIDE for i in range(4)}),
    "fresh weight_norm": trap(lambda: Chain(nn.utils.weight_norm(conv()), conv()), left_alone={"body.0": PARAMETRISED}),
    "parametrisations": trap(
        lambda: Chain(
            parametrizations.weight_norm(conv()),
            nn.utils.spectral_norm(conv()),
            parametrizations.spectral_norm(conv()),
            doubled(conv()),
            conv(),
        ),
        left_alone={f"body.{i}": PARAMETRISED for i in range(4)},
    ),
    "nothing but weight_norm": trap(
        lambda: nn.Sequential(*(parametrizations.weight_norm(conv(a, b)) for a, b in ((3, 8), (8, 8), (8, 3)))),
        refused="parametrised",
    ),
    "calls itself": trap(lambda: nn.Sequential(conv(3), Recursive(), conv(8, 3)), split="1"),
    "the model calls itself": trap(SelfCalling, split="head"),
    "one unit many times": trap(Looped, split="head"),
    "returns a list": trap(lambda: Returning(lambda image, feature, y: [y, feature])),
    "returns nested": trap(lambda: Returning(lambda image, feature, y: Pair(y, {"others": [feature, image]}))),
    "returns its input": trap(lambda: Returning(lambda image, feature, y: (image, {"y": y}, None, "text"))),
    "hides its output in a dataclass": trap(lambda: AsksForBias(Result), left_alone={"body.0": FUSED}),
    "yields": trap(lambda: Yielding(conv()), refused="generator"),
    "image and noise map": trap(
        NoiseMap,
        inputs=tensors_and(lambda batch, size: torch.rand(batch, 1, *size, dtype=torch.float64)),
        example=True,
        left_alone={"level": NO_FEATURE},
    ),
    "image and a number's logarithm": trap(
        Scaled,
        inputs=lambda batch, size: {"image": images()(batch, size), "sigma": numbers(batch, size)},
        example=True,
        left_alone={"late": NO_FEATURE},
    ),
    "mask of None": trap(Optional, left_alone={"masked": NEVER}),
    "mask given": trap(
        Optional,
        inputs=tensors_and(lambda batch, size: (torch.rand(batch, 1, *size) > 0.5).double()),
        example=True,
        left_alone={"masked": NO_FEATURE},
    ),
    "dict of inputs": trap(
        FromDict,
        inputs=lambda batch, size: ({"image": images()(batch, size), "gain": numbers(batch, size)},),
        example=True,
        split="middle.0",
    ),
    "all frozen": trap(lambda: Chain(pair(), pair()).requires_grad_(False), left_alone={"last": STRAY}),
    "part frozen": trap(lambda: frozen(Chain(pair(), pair(), conv()), "head", "split", "body.0"), targets="layers"),
    "channels_last": trap(
        lambda: UNet().to(memory_format=torch.channels_last),
        inputs=lambda batch, size: images()(batch, size).contiguous(memory_format=torch.channels_last),
        split="middle.0",
    ),
    "not contiguous": trap(
        UNet,
        inputs=lambda batch, size: torch.rand(batch, size[1], size[0], 6, dtype=torch.float64).permute(0, 3, 2, 1)[
            :, ::2
        ],
        split="middle.0",
    ),
    "one channel seen as three": trap(
        UNet, inputs=lambda batch, size: images(1)(batch, size).expand(-1, 3, -1, -1), split="middle.0"
    ),
    "windows, image-major": trap(lambda: Windows(True)),
    "windows, position-major": trap(lambda: Windows(False), left_alone={"body.0": ORDER, "body.1": ORDER}),
    "tokens first": trap(
        lambda: Folded(tokens_first, lambda t, x: t.permute(1, 2, 0).reshape(x.shape)), left_alone={"body.0": ORDER}
    ),
    "batch last": trap(
        lambda: Folded(lambda x: x.permute(2, 3, 0, 1), lambda t, x: t.permute(2, 3, 0, 1)),
        left_alone={"body.0": ORDER},
    ),
    "columns in the batch": trap(
        lambda: Folded(
            lambda x: x.permute(0, 3, 2, 1).flatten(0, 1),
            lambda t, x: t.unflatten(0, (x.shape[0], x.shape[3])).permute(0, 3, 2, 1),
        )
    ),
    "images twice in the batch": trap(
        lambda: Folded(
            lambda x: torch.cat([x, -x]).permute(0, 2, 3, 1),
            lambda t, x: t.permute(0, 3, 1, 2)[: len(x)] * t.permute(0, 3, 1, 2)[len(x) :],
        ),
        left_alone={"body.0": ORDER},
    ),
    "needs channels_last": trap(lambda: NeedsChannelsLast(conv())),
    "needs channels_last, 1×1": trap(lambda: NeedsChannelsLast(conv(kernel=1))),
    "needs channels_last, transposed": trap(lambda: NeedsChannelsLast(nn.ConvTranspose2d(8, 8, 3, 1, 1))),
    "needs channels_last weights": trap(
        lambda: NeedsChannelsLast(conv(), by_weight=True), left_alone={"body.0": FUSED}
    ),
    **{
        f"a layer on no image, {kind}": trap(lambda kind=kind: OnNoImage(kind), left_alone={"body.0": NO_IMAGE})
        for kind in ("tokens", "identity", "basis")
    },
    "tokens for each image": trap(lambda: OnNoImage("expanded")),
    "an expert without work": trap(Experts, left_alone={"body.1": "receives nothing on the example inputs"}),
    **{
        f"divided by the batch's {'smallest' if way else 'largest'}": trap(
            lambda way=way: ByLargest(Chain(conv(), conv()), way),
            refused="does not keep the images of a batch apart",
            split_at="net.split",
        )
        for way in (False, True)
    },
    **{
        f"images sorted, descending {way}": trap(lambda way=way: Sorts(way), left_alone={"body.0": ORDER})
        for way in (False, True)
    },
    **{
        f"images sorted in training mode, descending {way}": trap(
            lambda way=way: Sorts(way, in_evaluation=False),
            left_alone={"body.0": "what it receives in training mode is not ordered by image"},
        )
        for way in (False, True)
    },
    "a position map first": trap(
        lambda: Positioned(False), split="blocks.0.0", left_alone={"blocks.0.2": STRAY, "last": STRAY}
    ),
    "a position map for each image first": trap(
        lambda: Positioned(True), split="blocks.0.0", left_alone={"blocks.0.2": STRAY, "last": STRAY}
    ),
    "batch statistics": trap(lambda: BatchStatistics(True), refused=ORDER),
    "batch statistics before the split": trap(
        lambda: BatchStatistics(True), refused="does not keep the images of a batch apart", split_at="split"
    ),
    "attention of torch": trap(
        Attentive,
        left_alone={
            "attention.out_proj": OUTSIDE,
            **{f"encoder.layers.{i}.self_attn.out_proj": OUTSIDE for i in range(2)},
            "decoder.self_attn.out_proj": OUTSIDE,
            "decoder.multihead_attn.out_proj": OUTSIDE,
        },
    ),
    "recurrent": trap(Recurrent, left_alone={"rows": CLASS, "columns": CLASS, "body.1": ORDER}),
    "containers": trap(Holders, split="1", left_alone={"by_name.not[0]used*": NEVER}),
    "hooks of the user": trap(Hooked, left_alone={"body.2": STRAY, "last": STRAY}),
    "autocast inside": trap(lambda: Autocast(conv(), conv())),
    "checkpointing off": trap(lambda: Checkpointed(conv(), conv())),
    "catches everything": trap(lambda: Catching(conv(), conv()), left_alone={"body.0": NEVER}),
    "empties the split's list": trap(Popping, split="encoder", split_at="encoder", left_alone={"last": STRAY}),
    "U-Net in U-Net": trap(
        lambda: Skip(4, 4, Skip(4, 8, Skip(8, 8, None)), outermost=True), split="model.1.model.2.model.1"
    ),
    "pyramid of inputs": trap(
        MultiInput,
        split="extract.2",
        left_alone={"shallow.1": NO_FEATURE, "encoder.2.0": STRAY, "encoder.2.2": STRAY},
    ),
    "progressive stages": trap(Progressive, split="stage2.1"),
    "Laplacian pyramid": trap(Laplacian, split="low.1"),
    "Fourier": trap(lambda: Fourier(conv(16, 16, 1), conv(16, 16, 1), conv())),
    "complex": trap(Complex, left_alone={"spectral": "no real numbers"}),
    "predicted kernels": trap(Kernels),
    "half the resolution": trap(lambda: Resized(0.5), split="blocks.1", left_alone={"last": STRAY}),
    "twice the resolution": trap(lambda: Resized(2.0), split="blocks.1", left_alone={"last": STRAY}),
    "pixels in the channels": trap(lambda: Resized(None), split="blocks.1", left_alone={"last": STRAY}),
    "one channel": trap(lambda: Resized(None, 1), channels=1, split="blocks.1", left_alone={"last": STRAY}),
    "four channels": trap(lambda: Resized(0.5, 4), channels=4, split="blocks.1", left_alone={"last": STRAY}),
    "kinds of convolutions": trap(kinds, targets="layers"),
}
