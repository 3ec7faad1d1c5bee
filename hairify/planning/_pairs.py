"""Pairs of images: whether a model keeps the images of a batch apart, and whether two runs gave the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hairify._support.isolation import pass_on_lack_of_memory
from hairify._support.nested import all_tensors
from hairify.errors import ExampleInputError
from hairify.planning._inputs import Inputs
from hairify.planning._probe import Probe
from hairify.planning._recording import Received, Recording, Returned

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


class _Runs(NamedTuple):
    """Those on two images."""

    ab: Recording
    ba: Recording
    aa: Recording
    bb: Recording


class Pairs:
    """Runs on the batches [a, b], [b, a], [a, a] and [b, b]: do the images of a batch stay apart?

    Where they do, each half of whatever a layer receives for [a, b] and [b, a] is that half of what it receives for
    [a, a] or [b, b], bit for bit: the same kernels meet the same numbers. So no tolerance is needed that mixing could
    hide under. What is sorted by value has one order for [a, b] and [b, a], and is seen by that.

    Args:
        probe: the recorded model.

    Attributes:
        inputs: [a, b].
        ab: the run on them.
        training: the run on them in training mode; None where the model fails in it.
        trains_alike: whether the model computes the same in training mode, as far as it runs in it.
        unchecked: what could not be checked, and why.

    Raises:
        ExampleInputError: the model does not run on two images.
    """

    def __init__(self, probe: Probe) -> None:
        a, b = probe.inputs, second_image(probe.inputs)
        self.inputs, *others = (both_images(*pair) for pair in ((a, b), (b, a), (a, a), (b, b)))
        self._probe, self._alone = probe, probe.recording
        try:
            self._runs = _Runs(*map(self._watch, (self.inputs, *others)))
        except Exception as error:
            pass_on_lack_of_memory(error)
            raise ExampleInputError(
                f"The model runs on one image of {a.describe()}, but not on a batch of two: {type(error).__name__}: "
                f"{error}. Per-image weights need a model that takes batches."
            ) from error
        self.ab = self._runs.ab
        self.unchecked: list[str] = []
        self.training = self._train(self.inputs)
        # In both orders: what sorts the images of a batch in training mode alone finds one of them sorted.
        swapped = None if self.training is None else self._train(others[0])
        both = ((self.training, self._runs.ab), (swapped, self._runs.ba))
        self.trains_alike = all(run is None or _same_received(run, usual) for run, usual in both)
        self._training_others = [] if self.trains_alike else [swapped, *map(self._train, others[1:])]

    def why_not_apart(self, layer: str) -> str | None:
        """Why a layer cannot have weights for each image, by what it receives in all of its calls; None where it can.

        In training mode alone, what comes second in a batch is not looked at.
        """
        alone, *calls = (run.received.get(layer, []) for run in (self._alone, *self._runs))
        if not _all(_ordered_by_image, alone, *calls):
            if calls[0] != self._again.received.get(layer, []):
                return "what it receives differs from run to run"
            if any(one.shape[:1] == (0,) for one in alone):
                return "in one of its calls it receives nothing on the example inputs"
            if any(map(_comes_from_no_image, alone, *calls)):
                return "what it receives in one of its calls comes from no image"
            return "what it receives is not ordered by image"
        return (
            None if self._is_apart_in_training(layer) else "what it receives in training mode is not ordered by image"
        )

    def _is_apart_in_training(self, layer: str) -> bool:
        """Whether the first image's rows come from it alone in training mode, too, as far as that can be seen."""
        runs = [run for run in (self.training, *self._training_others) if run is not None]
        if len(runs) < 4:
            return True
        ab, *others = (run.received.get(layer, []) for run in runs)
        if _all(_first_apart, ab, *others):
            return True
        again = [] if self._training_again is None else self._training_again.received.get(layer, [])
        if ab == again:
            return False
        self._note("whether images stay apart in training mode: two runs on the same images differ")
        return True

    @property
    def read_outside(self) -> set[str]:
        """Layers whose parameters were used other than by calling the layer, in any of the runs."""
        runs = (self._alone, *self._runs, self.training)
        return set().union(*(run.read_outside for run in runs if run is not None))

    @functools.cached_property
    def repeats_itself(self) -> bool:
        """Whether all layers receive the same, bit for bit, in two runs on the same images."""
        return _same_received(self.ab, self._again)

    def output_repeats(self, *, training: bool) -> bool:
        """Whether the model returns the same, up to rounding, in two runs on the same images in one mode."""
        one, other = (self.training, self._training_again) if training else (self.ab, self._again)
        outputs = [all_tensors(run.output) for run in (one, other) if run is not None]
        if len(outputs) == 2 and len(outputs[0]) == len(outputs[1]) and all(map(same_up_to_rounding, *outputs)):
            return True
        mode = " in training mode" if training else ""
        self._note(f"whether what is converted computes the same{mode}: two runs on the same images differ")
        return False

    def output_kept_apart(self, module: str, index: int) -> bool:
        """Whether a tensor of the first output of a module keeps the images apart."""
        ab, ba, aa, bb = self._prints(module, index)
        return len(ab) == len(ba) == len(aa) == len(bb) == 2 and ab == (aa[0], bb[1]) and ba == (bb[0], aa[1])

    def output_alike_for_all(self, module: str, index: int) -> bool:
        """Whether a tensor of the first output of a module is the same for every image."""
        return len(set(self._prints(module, index)[0])) == 1

    def _prints(self, module: str, index: int) -> list[tuple[int, ...]]:
        tensors_of = [returned.get(module, ()) for returned in self._first_returned]
        return [of[index].prints if index < len(of) else () for of in tensors_of]

    @functools.cached_property
    def _first_returned(self) -> list[dict[str, tuple[Returned, ...]]]:
        return [{name: call.returned for name, call in run.first_calls().items()} for run in self._runs]

    @functools.cached_property
    def _again(self) -> Recording:
        """A second run on [a, b]."""
        return self._watch(self.inputs)

    @functools.cached_property
    def _training_again(self) -> Recording | None:
        """A second run on [a, b] in training mode."""
        return self._train(self.inputs)

    def _watch(self, inputs: Inputs) -> Recording:
        return self._probe.run(inputs, fingerprints=True, mark_images=True)

    def _train(self, inputs: Inputs) -> Recording | None:
        """A run in training mode, all of which draw the same random numbers; None where the model fails in it."""
        try:
            return self._probe.run(inputs, fingerprints=True, training=True)
        except Exception as error:  # as a model may that is made for inference alone
            pass_on_lack_of_memory(error)
            self._note(f"what the network does in training mode: {type(error).__name__}: {error}")
            return None

    def _note(self, unchecked: str) -> None:
        if unchecked not in self.unchecked:
            self.unchecked.append(unchecked)


def _all(law: Callable[..., bool], *calls: list[Received]) -> bool:
    """Whether as many calls were made in all runs, and the law holds for all of them."""
    return len(set(map(len, calls))) == 1 and all(map(law, *calls))


def _ordered_by_image(alone: Received, ab: Received, ba: Received, aa: Received, bb: Received) -> bool:
    """Whether one image's rows come from it alone, and two images bring twice as many."""
    grows = bool(ab.shape) and ab.shape[0] == 2 * alone.shape[0] > 0
    halves = ((ab, aa, 0), (ab, bb, 1), (ba, bb, 0), (ba, aa, 1))
    return grows and all(_half_alike(mixed, alike, half) for mixed, alike, half in halves)


def _comes_from_no_image(alone: Received, ab: Received, ba: Received, aa: Received, bb: Received) -> bool:
    return ab == ba == aa == bb and ab.shape == alone.shape


def _first_apart(ab: Received, ba: Received, aa: Received, bb: Received) -> bool:
    """Whether the rows of the image that comes first come from it alone, in both orders."""
    return _half_alike(ab, aa, 0) and _half_alike(ba, bb, 0)


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
