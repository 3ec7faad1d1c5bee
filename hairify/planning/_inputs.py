"""Example inputs: what a network is called with."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hairify._support.isolation import SEED
from hairify._support.nested import Size, image_size, tensors
from hairify._support.torch_internals import tree_flatten, tree_unflatten
from hairify.errors import ExampleInputError

# Non-square first: only then can a feature map be told from a window or an attention map.
_SIZES: tuple[Size, ...] = ((64, 96), (128, 192), (64, 64), (128, 128), (48, 48), (256, 256))


@dataclass(frozen=True)
class Inputs:
    """Arguments of one call of a model.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        batched: for each tensor among them, whether its first dimension is that of the first tensor, the image.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batched: tuple[bool, ...]

    @classmethod
    def of(cls, example: Any) -> Inputs:
        """From what users give as `example_inputs`: a tensor, a tuple or list of arguments, or a dict of keywords.

        Raises:
            ExampleInputError: there is no batch of images in it.
        """
        kwargs = dict(example) if isinstance(example, Mapping) else {}
        args = () if kwargs else tuple(example) if isinstance(example, (tuple, list)) else (example,)
        found = tensors((args, kwargs))
        if not found or not found[0].ndim or not found[0].shape[0]:
            raise ExampleInputError(
                "`example_inputs` holds no batch of images; give one, such as torch.rand(1, 3, 64, 96)."
            )
        batch = found[0].shape[0]
        return cls(args, kwargs, tuple(t.ndim > 0 and t.shape[0] == batch for t in found))

    def map(self, fn: Callable[..., Tensor], *others: Inputs, batched_only: bool = False) -> Inputs:
        """The same arguments with `fn` applied to every tensor, and to those of `others` in its place."""
        flat, spec = tree_flatten((self.args, self.kwargs))
        changed = iter(
            [
                fn(*each) if batched or not batched_only else each[0]
                for batched, *each in zip(self.batched, self.tensors, *(o.tensors for o in others), strict=True)
            ]
        )
        leaves = [next(changed) if isinstance(leaf, Tensor) else leaf for leaf in flat]
        args, kwargs = tree_unflatten(leaves, spec)
        return Inputs(args, kwargs, self.batched)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in order; the first one is the image."""
        return tensors((self.args, self.kwargs))

    @property
    def batch(self) -> int:
        """Number of images: the first dimension of the first tensor."""
        return self.tensors[0].shape[0]

    @property
    def image(self) -> Size | None:
        """(H, W) of the images."""
        return image_size(self.args, self.kwargs)

    def describe(self) -> str:
        """Shapes, for plans and messages: `(1, 3, 64, 96)`, or `x=(1, 3, 64, 96)` for keywords."""
        shapes = [str(tuple(t.shape)) for a in self.args for t in tensors(a)]
        shapes += [f"{k}={tuple(t.shape)}" for k, a in self.kwargs.items() for t in tensors(a)]
        return ", ".join(shapes)


def default_inputs(model: nn.Module) -> Iterator[Inputs]:
    """Inputs to try: one image for each required positional argument, in the model's dtype and device."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    try:
        signature = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a forward without a Python signature
        signature = ()  # type: ignore[assignment]
    required = [p for p in signature if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    first_conv = next((m.in_channels for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d))), 3)
    generator = torch.Generator().manual_seed(SEED)
    further = len(required) - 1
    for (height, width), channels in itertools.product(_SIZES, dict.fromkeys((3, first_conv, 1, 4))):
        for others in dict.fromkeys((channels, 1)) if further > 0 else (channels,):  # further images, or masks
            shapes = [(1, c, height, width) for c in (channels, *(others,) * further)]
            yield Inputs.of(
                tuple(torch.rand(shape, generator=generator, device="cpu").to(parameter) for shape in shapes)
            )
