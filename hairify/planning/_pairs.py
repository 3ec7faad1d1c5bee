"""Pairs of images: whether a model keeps the images of a batch apart, and whether two runs gave the same."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from hairify._support.isolation import pass_on_lack_of_memory
from hairify._support.nested import all_tensors
from hairify.errors import ExampleInputError
from hairify.planning._inputs import Inputs
from hairify.planning._probe import Probe
from hairify.planning._recording import Received, Recording

_SEED = 1  # of the second image
_NEARLY_BLACK = 0.02


def second_image(inputs: Inputs) -> Inputs:
    """Inputs of the same shapes for another image: fresh values in the range of the given ones.

    A corner of it is flat, and black if the range nearly goes down to that: what a network selects by value is another
    number of pixels then than in the first.
    """
    generator = torch.Generator().manual_seed(_SEED)

    def other(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return t.flip(tuple(range(1, t.ndim)))
        low, high = t.min(), t.max()
        if low == high:  # such as a noise level, of which a model may take the logarithm: keep the sign
            low, high = (low / 2, low * 2) if low else (low, low + 1)
        values = low + (high - low) * torch.rand(t.shape, generator=generator, device="cpu").to(t)
        if t.ndim > 2:
            values[..., : t.shape[-2] // 2, : t.shape[-1] // 2] = 0 if 0 < low < _NEARLY_BLACK * high else low
        return torch.empty_like(t).copy_(values)  # which keeps the memory format, and so the kernels

    return inputs.map(other, batched_only=True)


def both_images(a: Inputs, b: Inputs) -> Inputs:
    """Two images in one batch."""
    return a.map(lambda x, y: torch.cat([x, y]), b, batched_only=True)


class Pairs:
    """Runs on the batches [a, b], [a, a] and [b, b]: do the images of a batch stay apart?

    Where they do, the first half of whatever a layer receives for [a, b] is the first half of what it receives for
    [a, a], and the second half that for [b, b], bit for bit: the same kernels meet the same numbers. So no
    tolerance is needed that mixing could hide under.

    Args:
        probe: the model.

    Attributes:
        inputs: [a, b].
        ab: the run on them.

    Raises:
        ExampleInputError: the model does not run on two images.
    """

    def __init__(self, probe: Probe) -> None:
        a, b = probe.inputs, second_image(probe.inputs)
        self._probe, self._twice = probe, both_images(a, a)
        self.inputs, self._alone = both_images(a, b), probe.recording
        try:
            self.ab, self._aa, self._bb = (
                probe.run(both_images(*pair), fingerprints=True, mark_images=True) for pair in ((a, b), (a, a), (b, b))
            )
        except Exception as error:
            pass_on_lack_of_memory(error)
            raise ExampleInputError(
                f"The model runs on one image of {a.describe()}, but not on a batch of two: {type(error).__name__}: "
                f"{error}. Per-image weights need a model that takes batches."
            ) from error
        self._returned = [
            {name: call.returned for name, call in recording.first_calls().items()}
            for recording in (self.ab, self._aa, self._bb)
        ]

    def inputs_kept_apart(self, layer: str) -> bool:
        """Whether each image's rows of what a layer receives, in all of its calls, come from that image alone."""
        alone, *received = [r.received.get(layer, []) for r in (self._alone, self.ab, self._aa, self._bb)]
        return len({len(alone), *map(len, received)}) == 1 and all(map(_apart, *received))

    def inputs_kept_apart_in_training(self, layer: str) -> bool:
        """Whether each image's rows of it come from that image alone in training mode, too, where that can be seen."""
        if self.training_apart is None:
            return True
        ab, aa = (r.received.get(layer, []) for r in self.training_apart)
        return len(ab) == len(aa) and all(map(_first_apart, ab, aa))

    @functools.cached_property
    def training(self) -> Recording | None:
        """The run on [a, b] in training mode; None where the model fails in it."""
        return self._train(self.inputs)

    @functools.cached_property
    def training_apart(self) -> tuple[Recording, Recording] | None:
        """The runs on [a, b] and [a, a] in training mode, but for BatchNorm, which mixes the images rightly.

        The random draws are the same in both. None where the model fails, or does what it does in evaluation mode.
        """
        if self.training is None or _same_received(self.training, self.ab):
            return None
        ab, aa = (self._train(inputs, batch_norm=False) for inputs in (self.inputs, self._twice))
        return (ab, aa) if ab is not None and aa is not None else None

    def _train(self, inputs: Inputs, batch_norm: bool = True) -> Recording | None:
        try:
            return self._probe.run(inputs, fingerprints=True, training=True, batch_norm=batch_norm)
        except Exception as error:  # in training mode models may fail as they like
            pass_on_lack_of_memory(error)
            return None

    def output_kept_apart(self, module: str, index: int) -> bool:
        """Whether a tensor of the first output of a module keeps the images apart."""
        ab, aa, bb = self._marks(module, index)
        return bool(ab) and ab[0] == aa[0] and ab[1] == bb[1]

    def output_alike_for_all(self, module: str, index: int) -> bool:
        """Whether a tensor of the first output of a module is the same for every image."""
        ab, _, _ = self._marks(module, index)
        return len(set(ab)) == 1

    def _marks(self, module: str, index: int) -> list[tuple[int, ...]]:
        tensors_of = [returned.get(module, ()) for returned in self._returned]
        return [of[index].marks if index < len(of) else () for of in tensors_of]


def _apart(ab: Received, aa: Received, bb: Received) -> bool:
    return _first_apart(ab, aa) and _half_alike(ab, bb, 1)


def _first_apart(ab: Received, aa: Received) -> bool:
    return _half_alike(ab, aa, 0)


def _half_alike(x: Received, y: Received, half: int) -> bool:
    return x.shape == y.shape and len(x.prints) == len(y.prints) == 2 and x.prints[half] == y.prints[half]


def _same_received(one: Recording, other: Recording) -> bool:
    """Whether all layers received the same in two runs, and the models returned the same."""
    outputs = all_tensors(one.output), all_tensors(other.output)
    return one.received == other.received and len(outputs[0]) == len(outputs[1]) and all(map(_same_tensor, *outputs))


def _same_tensor(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and _identical(x, y)


def _identical(x: Tensor, y: Tensor) -> bool:
    return torch.equal(x, y) or bool(torch.isclose(x, y, rtol=0, atol=0, equal_nan=True).all())


def same_up_to_rounding(got: Tensor, expected: Tensor) -> bool:
    """Whether two tensors of a run differ by no more than sqrt(eps) of the largest finite expected value.

    Other kernels may round differently, and depth multiplies that. What is not finite must be the same.
    """
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    if not (expected.is_floating_point() or expected.is_complex()):
        return torch.equal(got, expected)
    finite = expected.isfinite()
    if not torch.equal(got.isfinite(), finite) or not _identical(got[~finite], expected[~finite]):
        return False
    if not finite.any():
        return True
    wide = torch.complex128 if expected.is_complex() else torch.float64
    difference = (got[finite].to(wide) - expected[finite].to(wide)).abs().max()
    return bool(difference <= torch.finfo(expected.dtype).eps ** 0.5 * expected[finite].to(wide).abs().max())
