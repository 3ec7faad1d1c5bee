"""Random small networks, written down as recipes: `Recipe(...)` as printed builds the same network again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from laws import MakeInputs, Size, Specimen, images
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

SIZES: tuple[Size, Size] = ((16, 24), (32, 16))  # divisible by 8: three levels


@dataclass(frozen=True)
class Part:
    """Equal blocks in a row.

    Attributes:
        kind: one of `BLOCKS`.
        count: how many.
        norm: one of `NORMS`.
        act: one of `ACTIVATIONS`.
        drop: the probability of dropping values between blocks.
    """

    kind: str = "residual"
    count: int = 1
    norm: str = "none"
    act: str = "gelu"
    drop: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """A network and how it is converted.

    Attributes:
        encoders: what each level on the way down is made of; none of them makes a network of constant resolution.
        middle: what stands at the lowest resolution.
        channels: of the images.
        width: channels inside.
        down: one of `DOWNS`.
        up: one of `UPS`.
        merge: how skips come back: "add", "iadd" (in place) or "concat".
        extra: a further input: "none", "map", "number", "keyword" or "optional" (not given).
        output: one of `OUTPUTS`.
        frozen: names of the parts that are not trained.
        layout: of the images in memory, one of `LAYOUTS`.
        overwrite: whether the image is normalised in place, which overwrites the caller's.
        again: how often more the middle runs, and with it what lies in it, such as the split.
        options: for `hairify`.
        pooled: a small DAC in place of the built-in one, which takes most of the time.
    """

    encoders: tuple[tuple[Part, ...], ...] = ()
    middle: tuple[Part, ...] = (Part(),)
    channels: int = 3
    width: int = 4
    down: str = "stride"
    up: str = "shuffle"
    merge: str = "add"
    extra: str = "none"
    output: str = "tensor"
    frozen: tuple[str, ...] = ()
    layout: str = "dense"
    overwrite: bool = False
    again: int = 0
    options: tuple[tuple[str, Any], ...] = ()
    pooled: bool = True

    def specimen(self) -> Specimen:
        inputs, options = self.inputs(), dict(self.options)
        if options.get("split_at") == "tokens":
            options["split_at"] = Network(self).tokens() or "head"
        options["example_inputs"] = inputs(1, SIZES[0])
        if self.pooled:
            options["dac"] = Pooled
        return Specimen(lambda: Network(self), inputs, SIZES, options)

    def inputs(self) -> MakeInputs:
        def make(batch: int, size: Size) -> Any:
            image = LAYOUTS[self.layout](images(self.channels)(batch, size))
            if self.extra == "map":
                return image, torch.rand(batch, 1, *size, dtype=image.dtype)
            if self.extra in ("number", "keyword"):
                number = 0.1 + torch.rand(batch, dtype=image.dtype)
                return (image, number) if self.extra == "number" else {"image": image, "extra": number}
            return image

        return make


def strided(image: Tensor) -> Tensor:
    """Columns first in memory, and every other one left out."""
    return image.repeat_interleave(2, 3).permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)[..., ::2]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda image: image,
    "channels_last": lambda image: image.contiguous(memory_format=torch.channels_last),
    "strided": strided,
}


class Pooled(nn.Module):
    """A small DAC."""

    def __init__(self, in_channels: int, giv_dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * in_channels, giv_dim)

    def forward(self, feature: Tensor) -> Tensor:
        moments = torch.cat([feature.mean((2, 3)), feature.abs().mean((2, 3))], 1)
        return F.softsign(self.fc(F.softsign(moments)))  # bounded: no softmax after it drowns its gradient


def conv(c: int, out: int | None = None, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(c, out or c, kernel, **{"padding": kernel // 2, **options})


class ChannelNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GroupNorm(nn.GroupNorm):
    """Normalises a contiguous copy: torch 2.13 crashes in backward passes of channels-last inputs without gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous())


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda c: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "group": lambda c: GroupNorm(2, c),
    "layer": ChannelNorm,
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {  # none of them can die, so that every gradient arrives
    "gelu": nn.GELU,
    "leaky, in place": lambda: nn.LeakyReLU(0.2, inplace=True),
    "silu, in place": lambda: nn.SiLU(inplace=True),
}


class Block(nn.Module):
    """What all blocks share.

    Attributes:
        stays: names of the layers in it that must never be converted.
    """

    stays: tuple[str, ...] = ()

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        self.norm, self.act = NORMS[part.norm](c), ACTIVATIONS[part.act]()


class Plain(Block):
    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.conv = conv(c, bias=part.norm == "none")

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Residual(Block):
    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.conv1, self.conv2 = conv(c), conv(c, padding_mode="reflect" if part.norm == "layer" else "zeros")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.norm(self.conv1(x)))) + x


class Gated(Block):
    """NAFNet's: gates, simple channel attention, a branch scaled from zero."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.wide, self.depthwise, self.narrow = conv(c, 2 * c, 1), conv(2 * c, groups=2 * c), conv(c, kernel=1)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(c, kernel=1))
        if part.norm == "none":
            self.norm = nn.GroupNorm(1, c)  # a gate squares: without a norm a few of them overflow
        self.beta = nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.depthwise(self.wide(self.norm(x))).chunk(2, 1)
        y = a * b
        return x + self.narrow(y * self.squeeze(y)) * self.beta


class ChannelAttention(Block):
    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.body, self.fc1, self.fc2 = conv(c, groups=2), nn.Linear(c, 2), nn.Linear(2, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.body(x))
        return x + y * torch.sigmoid(self.fc2(self.act(self.fc1(y.mean((2, 3))))))[:, :, None, None]


class Rows(Block):
    """Attention within rows, which the batch holds ahead of the images or after them."""

    image_major = True

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        order, back = ((0, 2, 3, 1), (0, 3, 1, 2)) if self.image_major else ((2, 0, 3, 1), (1, 3, 0, 2))
        y = self.norm(x).permute(order)
        q, k, v = self.qkv(y.flatten(0, 1)).chunk(3, -1)
        rows = self.proj((q @ k.transpose(1, 2)).softmax(-1) @ v)
        return x + rows.unflatten(0, y.shape[:2]).permute(back)


class RowsFirst(Rows):
    image_major, stays = False, ("qkv", "proj")


class TokenMixer(Block):
    """A Conv1d over tokens and a linear layer."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.along, self.across = nn.Conv1d(c, c, 3, padding=1, groups=2), nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.along(self.norm(x).flatten(2))).transpose(1, 2)
        return x + self.across(y).transpose(1, 2).reshape(x.shape)


class TokensFirst(Block):
    stays = ("fc",)

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.fc = nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(self.norm(x).flatten(2).permute(2, 0, 1)).permute(1, 2, 0).reshape(x.shape)


class Attention(Block):
    stays = ("attention.out_proj",)

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.attention, self.mlp = nn.MultiheadAttention(c, 2, batch_first=True), conv(c, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.avg_pool2d(self.norm(x), 2, ceil_mode=True)
        t = y.flatten(2).transpose(1, 2)
        y = self.attention(t, t, t, need_weights=False)[0].transpose(1, 2).reshape(y.shape)
        return x + self.mlp(F.interpolate(y, size=x.shape[-2:]))


class Bottleneck(Block):
    """Down and up again inside of a block; `output_size`, dilation, other kernels."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.down, self.up = conv(c, stride=2), nn.ConvTranspose2d(c, c, 3, 2, 1, groups=2)
        self.dilated = conv(c, dilation=2, padding=2, padding_mode="circular" if part.norm == "batch" else "zeros")

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.act(self.norm(self.down(x))), output_size=list(x.shape[-2:]))
        y += x
        return self.dilated(y) if min(x.shape[-2:]) >= 2 else y


class Twice(Residual):
    """A layer used twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.norm(self.conv1(self.conv1(x))))) + self.conv2(x)


class Tied(Residual):
    stays = ("conv1", "conv2")

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.conv2.weight = self.conv1.weight


class Read(Residual):
    stays = ("conv1",)

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.conv1.weight, self.conv1.bias, padding=1)
        return self.conv2(self.act(self.norm(y))) + x


class OldNorm(Residual):
    stays = ("conv1", "conv2")

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        with torch.no_grad():  # else the weight is no leaf, and not even a plain deepcopy works
            weight_norm(self.conv1)
        spectral_norm(self.conv2, n_power_iterations=5)
        with torch.no_grad():
            self.conv2(torch.zeros(1, c, 3, 3))  # iterates: its first vectors are random, and may divide by next to 0


class NewNorm(Residual):
    stays = ("conv1", "conv2")

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        parametrizations.weight_norm(self.conv1)
        parametrizations.spectral_norm(self.conv2)


class Stateful(Residual):
    """Assigns attributes and moves a buffer."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.register_buffer("seen", torch.zeros(c))

    def forward(self, x: Tensor) -> Tensor:
        self.last_shape, self.skip = x.shape, x
        self.seen.lerp_(x.detach().mean((0, 2, 3)), 0.1)
        y = super().forward(x) + self.skip
        del self.skip
        return y


class Leaning(Block):
    """A convolution of its own, and one that it shares with its siblings."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.own, self.shared = conv(c), conv(c, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shared(self.act(self.norm(self.own(x))))


class Optional(Block):
    """Stochastic depth; a layer that no run takes."""

    stays = ("never",)

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.conv, self.never = conv(c), conv(c)

    def forward(self, x: Tensor) -> Tensor:
        if not x.shape[0]:
            return self.never(x)
        y = self.act(self.norm(self.conv(x)))
        if self.training:  # never quite zero, so that every gradient arrives
            y = y * (0.1 + (torch.rand(len(x), 1, 1, 1, dtype=x.dtype) < 0.8))
        return x + y


class Routed(Block):
    """Routes by value: pixels by a mask, images by their mean, and away from a layer that is never taken."""

    stays = ("bright", "dark", "never")

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.above, self.below, self.bright, self.dark, self.never = (conv(c) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        if x.isnan().any():
            return self.never(x)
        y = torch.where(x > 0, self.above(self.norm(x)), self.below(x))
        return x + self.act(torch.cat([self.bright(i[None]) if i.mean() > 0 else self.dark(i[None]) for i in y]))


class Constant(Block):
    """Attention to learned tokens, which share a layer with the pixels; and a layer on the identity alone."""

    stays = ("shared", "identity")

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.tokens = nn.Parameter(torch.randn(c + 1, c))
        self.shared, self.identity, self.out = nn.Linear(c, c), nn.Linear(c, c), conv(c, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        c = x.shape[1]
        pixels, keys = self.shared(self.norm(x).permute(0, 2, 3, 1)), self.shared(self.tokens)
        y = (pixels @ keys.T).softmax(-1) @ keys @ self.identity(torch.eye(c, dtype=x.dtype))
        return x + self.out(y.permute(0, 3, 1, 2))


class Sorted(Block):
    """The images of a batch in the order of their means, as they are routed to experts."""

    stays = ("routed",)

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.routed, self.out = conv(c), conv(c, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        order = x.mean((1, 2, 3)).argsort()
        return x + self.out(self.act(self.norm(self.routed(x[order])[order.argsort()])))


class Windows(Block):
    """Tokens of a map that is padded to whole windows of 3×3.

    Attributes:
        padded: the map of the tokens that `mix` returned last, (B, C, H, W).
    """

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.mix, self.out = nn.Linear(c, c), conv(c, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        y = F.pad(self.norm(x), (0, -width % 3, 0, -height % 3), mode="replicate")
        tokens = self.mix(y.flatten(2).transpose(1, 2))
        self.padded = tokens.transpose(1, 2).reshape(y.shape)
        around = F.interpolate(F.avg_pool2d(self.padded, 3), scale_factor=3.0)
        return x + self.out(self.act(self.padded + around))[..., :height, :width]


class Recursive(Block):
    """Calls itself at half the resolution, down to one pixel."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.inward, self.outward = conv(c), conv(c)

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        y = self.act(self.norm(self.inward(x)))
        if depth and min(x.shape[-2:]) > 1:
            inside = self(F.avg_pool2d(y, 2, ceil_mode=True), depth - 1)
            y = y + F.interpolate(inside, size=x.shape[-2:])
        return x + self.outward(y)


class Overwriting(Block):
    """Writes into what its layers return, and in evaluation mode into what it is given, which backward may need."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__(c, part)
        self.first, self.second = conv(c), conv(c, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 0.5 if self.training else x.mul_(0.5)
        y = self.first(x)
        y[:, ::2] *= 0.5
        y += x
        return self.second(self.act(self.norm(y))).add_(x)


BLOCKS: dict[str, type[Block]] = {
    "plain": Plain,
    "residual": Residual,
    "gated": Gated,
    "channel attention": ChannelAttention,
    "rows": Rows,
    "rows first": RowsFirst,
    "token mixer": TokenMixer,
    "tokens first": TokensFirst,
    "attention": Attention,
    "bottleneck": Bottleneck,
    "twice": Twice,
    "tied": Tied,
    "read": Read,
    "old norm": OldNorm,
    "new norm": NewNorm,
    "stateful": Stateful,
    "leaning": Leaning,
    "optional": Optional,
    "routed": Routed,
    "constant": Constant,
    "sorted": Sorted,
    "windows": Windows,
    "recursive": Recursive,
    "overwriting": Overwriting,
}


class Unshuffle(nn.Module):
    def __init__(self, c: int, out: int) -> None:
        super().__init__()
        self.reduce = conv(4 * c, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(F.pixel_unshuffle(x, 2))


class Upsampled(nn.Module):
    def __init__(self, c: int, out: int) -> None:
        super().__init__()
        self.conv = conv(c, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))


DOWNS: dict[str, Callable[[int, int], nn.Module]] = {
    "stride": lambda c, out: conv(c, out, stride=2),
    "pool": lambda c, out: nn.Sequential(nn.MaxPool2d(2), conv(c, out)),
    "unshuffle": Unshuffle,
}
UPS: dict[str, Callable[[int, int], nn.Module]] = {
    "shuffle": lambda c, out: nn.Sequential(conv(c, 4 * out, 1, bias=False), nn.PixelShuffle(2)),
    "transposed": lambda c, out: nn.ConvTranspose2d(c, out, 2, 2),
    "interpolate": Upsampled,
}
OUTPUTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tensor": lambda y, feature: y,
    "list": lambda y, feature: [y, feature],
    "dict": lambda y, feature: {"restored": y, "others": (feature, None)},
    "input too": lambda y, feature: (y, y),
}


def blocks(c: int, parts: tuple[Part, ...]) -> nn.Sequential:
    groups = []
    for part in parts:
        made = [BLOCKS[part.kind](c, part) for _ in range(part.count)]
        if part.kind == "leaning":
            for block in made[1:]:
                block.shared = made[0].shared
        groups.append(nn.Sequential(*made, *([nn.Dropout(part.drop)] if part.drop else [])))
    return nn.Sequential(*groups)


class Network(nn.Module):
    """What a recipe describes."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe, w = recipe, recipe.width
        self.head, self.tail = conv(recipe.channels, w), conv(w, recipe.channels)
        self.encoders, self.downs, self.ups, self.merges, self.decoders = (nn.ModuleList() for _ in range(5))
        for parts in recipe.encoders:
            self.encoders.append(blocks(w, parts))
            self.downs.append(DOWNS[recipe.down](w, w + 2))
            self.ups.append(UPS[recipe.up](w + 2, w))
            self.merges.append(conv(2 * w, w, 1) if recipe.merge == "concat" else nn.Identity())
            self.decoders.append(blocks(w, parts[::-1]))
            w += 2
        self.middle = blocks(w, recipe.middle)
        if recipe.extra != "none":
            self.extra = conv(1, w, 1) if recipe.extra in ("map", "optional") else nn.Linear(1, w)
        for name in recipe.frozen:
            getattr(self, name).requires_grad_(False)

    def forward(self, image: Tensor, extra: Tensor | None = None) -> Any:
        if self.recipe.overwrite:
            image.sub_(0.5).mul_(2)
        x, skips = self.head(image), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        for _ in range(1 + self.recipe.again):
            x = feature = self.middle(x)
        if extra is not None:
            given = self.extra(extra[:, None] if extra.ndim == 1 else F.adaptive_avg_pool2d(extra, x.shape[-2:]))
            x = x + (given[:, :, None, None] if given.ndim == 2 else given)
        for i in reversed(range(len(skips))):
            x = self.ups[i](x)
            if self.recipe.merge == "concat":
                x = torch.cat([x, skips[i]], 1)
            elif self.recipe.merge == "iadd":
                x += skips[i]
            else:
                x = x + skips[i]
            x = self.decoders[i](self.merges[i](x))
        return OUTPUTS[self.recipe.output](image + self.tail(x), feature)

    def tokens(self) -> str | None:
        """Name of a layer that returns tokens of a padded map, where there is one and it runs once in a forward."""
        names = (f"{name}.mix" for name, block in self.named_modules() if isinstance(block, Windows))
        return next((name for name in names if not self.recipe.again), None)

    def stay(self) -> set[str]:
        """Names of the layers that must never be converted."""
        return {
            f"{name}.{layer}"
            for name, block in self.named_modules()
            if isinstance(block, Block)
            for layer in block.stays
        }


def parts() -> st.SearchStrategy[Part]:
    return st.builds(
        Part,
        kind=st.sampled_from(list(BLOCKS)),
        count=st.sampled_from((1, 1, 1, 2, 3)),
        norm=st.sampled_from(list(NORMS)),
        act=st.sampled_from(list(ACTIVATIONS)),
        drop=st.sampled_from((0.0, 0.0, 0.3)),
    )


PLACES = ("head", "encoders", "downs", "middle", "ups", "decoders", "tail")


def options() -> st.SearchStrategy[tuple[tuple[str, Any], ...]]:
    names = st.lists(st.sampled_from(PLACES), min_size=1, max_size=3, unique=True).map(tuple)
    each = {
        "split_at": st.one_of(st.sampled_from((0.1, 0.3, 0.5, 0.7)), st.sampled_from(("head", "middle", "tokens"))),
        "targets": st.sampled_from(("families", "layers")),
        "include": st.one_of(names, st.just(("*.0.*",))),
        "exclude": st.one_of(names, st.just(("middle.0.0",))),
        "box_size": st.sampled_from((2, 7)),
        "box": st.just("low_rank"),
        "init": st.just("random"),
        "giv_dim": st.sampled_from((1, 5)),
    }
    return st.fixed_dictionaries({}, optional=each).map(lambda chosen: tuple(chosen.items()))


def torch_crashes(recipe: Recipe) -> bool:
    """The backward pass of GroupNorm on the CPU does, for channels_last where its input needs no gradient."""
    return recipe.layout == "channels_last" and "head" in recipe.frozen


def recipes() -> st.SearchStrategy[Recipe]:
    some = st.one_of(st.tuples(parts()), st.tuples(parts(), parts()))
    drawn = st.builds(
        Recipe,
        encoders=st.sampled_from((0, 1, 1, 2, 3)).flatmap(lambda levels: st.tuples(*[some] * levels)),
        middle=st.lists(parts(), min_size=1, max_size=2).map(tuple),
        channels=st.sampled_from((3, 1, 4)),
        width=st.sampled_from((4, 6)),
        down=st.sampled_from(list(DOWNS)),
        up=st.sampled_from(list(UPS)),
        merge=st.sampled_from(("add", "iadd", "concat")),
        extra=st.sampled_from(("none", "none", "map", "number", "keyword", "optional")),
        output=st.sampled_from(list(OUTPUTS)),
        frozen=st.one_of(st.just(()), st.lists(st.sampled_from(PLACES), max_size=7, unique=True).map(tuple)),
        layout=st.sampled_from(("dense", "dense", "channels_last", "strided")),
        overwrite=st.sampled_from((False, False, True)),
        again=st.sampled_from((0, 0, 0, 1, 2)),
        options=st.one_of(st.just(()), options()),
        pooled=st.sampled_from((True,) * 7 + (False,)),
    )
    return drawn.filter(lambda recipe: not torch_crashes(recipe))
