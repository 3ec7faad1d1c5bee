"""How the GIV reaches the hyper layers: beside the call, for one forward, in one thread."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
import torch.fx
from torch import Tensor, nn

from hairify._support.nested import Size, image_size, tensors
from hairify._support.torch_internals import backward_pass, in_function_transform, version
from hairify.errors import GIVError, OutsideForwardError
from hairify.functional._kernels import per_image
from hairify.functional._operations import Prepare
from hairify.nn._features import Feature, read_feature

_RUN_AGAIN = (
    "was run again during a backward pass, as gradient checkpointing does, where the selecting vectors of its own "
    "forward are not known. Use `hair.checkpoint_blocks()` in place of checkpointing by the network itself (often an "
    "option `use_checkpoint`), or checkpoint only what runs before the split."
)

torch.fx.wrap("read_feature")  # one named node in `HairModel.graph()`: it branches on shapes


@dataclass
class Hypernetwork:
    """The parts that make weights, used by calling them only (sharded parameters exist during a call alone).

    Attributes:
        dac: F_g → (B, D).
        standardization: what the DAC returns → GIV.
        hsn: per level, GIV (B, D) → selecting vectors (B, M, N).
        boxes: per level, (entry name, selecting vectors (B, N), block) → per-image weight and bias.
    """

    dac: nn.Module
    standardization: nn.Module
    hsn: nn.ModuleList
    boxes: nn.ModuleList


Until: TypeAlias = Literal["feature", "giv"]


@dataclass
class _Forward:
    """One running forward."""

    hypernetwork: Hypernetwork
    image: Size | None = None
    until: Until | None = None
    """What it is run for, where it ends at the split."""
    found: Tensor | None = None
    """F_g or the GIV, as `until` says."""
    selecting: list[Tensor] = field(default_factory=list)
    """Per level (B, M, N); empty until the split has run."""
    backward: int = field(default_factory=backward_pass)
    """The backward pass within which it started."""
    grad: bool = field(default_factory=torch.is_grad_enabled)
    """Whether gradients were recorded where it started."""
    cache: _Cache | None = None

    def selecting_of(self, slot: Slot) -> Tensor:
        """The selecting vectors (B, N) of one block."""
        return self.selecting[slot.level][:, slot.block]


def _is_run_again(forward: _Forward | None) -> bool:
    """Whether this is a backward pass that runs a part of some other forward again."""
    if torch.compiler.is_compiling():  # compilers have no number to compare
        return False
    return (-1 if forward is None else forward.backward) != backward_pass()


Weights: TypeAlias = tuple[Tensor, Tensor | None]


@dataclass
class _Cache:
    """Selecting vectors and weights made for a given GIV, as long as no parameter changes that they are made of.

    They are those of one CUDA stream: work on another would have to wait for it, which nobody would know.
    """

    versions: list[tuple[int, ...]] = field(default_factory=list)
    held: list[Tensor] = field(default_factory=list)
    """What these are of, lest others take its place in memory."""
    selecting: list[Tensor] = field(default_factory=list)
    weights: dict[tuple[int, int, str], Weights] = field(default_factory=dict)
    """By level, block and entry."""

    def of(self, hypernetwork: Hypernetwork) -> _Cache | None:
        """Itself, empty where parameters have changed since; None where that cannot be seen."""
        parts = (hypernetwork.hsn, hypernetwork.boxes)
        of = list(itertools.chain(*((*part.parameters(), *part.buffers()) for part in parts)))
        if any(t.is_inference() for t in of):  # their changes are not counted
            return None
        streams = [(torch.cuda.current_stream(d).cuda_stream,) for d in {t.device for t in of if t.is_cuda}]
        versions = [*streams, *((id(t), t.data_ptr(), version(t)) for t in of)]
        if versions != self.versions:
            self.versions, self.selecting, self.weights = versions, [], {}
            self.held = [*of, *(t.detach() for t in of)]
        return self


@contextlib.contextmanager
def _ordinary_tensors() -> Iterator[None]:
    """Without gradients, but what is made may be used where some are recorded."""
    with torch.inference_mode(False), torch.no_grad():
        yield


@dataclass
class _Given:
    """A GIV given by `conditioned_on`."""

    giv: Tensor
    backward: int = field(default_factory=backward_pass)
    """The backward pass within which it was given."""
    cache: _Cache | None = None
    """Made when it is first asked for, which compilers, that cannot follow that, never do."""

    def is_cached(self) -> bool:
        """Whether what is made for it is kept: for a single GIV, where no gradients are recorded.

        A CUDA graph replays what it captured when nothing is kept any more, so that it has to make all by itself.
        """
        return (
            self.giv.shape[0] == 1
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not in_function_transform()
            and not (self.giv.is_cuda and torch.cuda.is_current_stream_capturing())
        )

    def cache_for(self, hypernetwork: Hypernetwork) -> _Cache | None:
        """What is kept, as far as it still holds; None where nothing may be."""
        if not self.is_cached():
            return None
        if self.cache is None:
            self.cache = _Cache()
        return self.cache.of(hypernetwork)


class SplitReached(BaseException):
    """Ends a forward at the split. Not an Exception: a model's own `except Exception` must not catch it."""


class _Local(threading.local):
    """What belongs to one thread."""

    def __init__(self) -> None:  # runs in each thread; compilers compile anew once an absent attribute appears
        self.forward: _Forward | None = None
        self.given: _Given | None = None


class Scope:
    """Holds the running forward of one `HairModel`, separately for each thread.

    Hyper layers and the hook at the split keep a reference to it; it refers to no module outside a forward,
    so that copies and pickles of either part hold together by themselves.

    Args:
        split: name of the split, for messages.
        feature: how to read F_g from the split's output.
    """

    def __init__(self, split: str, feature: Feature) -> None:
        self.split, self.feature = split, feature
        self._local = _Local()
        self._given_in_training = False

    def __getstate__(self) -> dict[str, Any]:
        return {"split": self.split, "feature": self.feature}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @contextlib.contextmanager
    def forward(
        self, hypernetwork: Hypernetwork, image: Size | None, *, until: Until | None = None
    ) -> Iterator[_Forward]:
        """The time of one forward: within it, hyper layers have weights once the split has run.

        Args:
            hypernetwork: the parts that make weights.
            image: size of the input images.
            until: end at the split, with F_g as the DAC gets it or the GIV in `found`.
        """
        before = self.running()  # a hook in the model may run the model, say for its GIV
        self._local.forward = _Forward(hypernetwork, image, until)
        try:
            yield self._local.forward
        finally:
            self._local.forward = before

    def at_split(
        self, until: Until, hypernetwork: Hypernetwork, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """F_g or the GIV; the network runs up to the split only.

        Raises:
            GIVError: the split never ran.
        """
        image = image_size(args, kwargs)
        with self.forward(hypernetwork, image, until=until) as forward, contextlib.suppress(SplitReached):
            base(*args, **kwargs)
        if forward.found is None:
            raise GIVError(f"The split {self.split!r} never ran on these inputs, so there is no GIV.")
        return forward.found

    def running(self) -> _Forward | None:
        """The forward that runs in this thread."""
        return self._local.forward

    @contextlib.contextmanager
    def selected(self, hypernetwork: Hypernetwork, selecting: list[Tensor]) -> Iterator[None]:
        """The time of a part of a forward behind the split, run with the selecting vectors given."""
        before = self.running()
        self._local.forward = _Forward(hypernetwork, selecting=selecting)
        try:
            yield
        finally:
            self._local.forward = before

    @contextlib.contextmanager
    def conditioned_on(self, giv: Tensor) -> Iterator[None]:
        """Forwards within it use `giv` instead of the DAC."""
        before = self._local.given
        self._local.given = _Given(giv.clone())  # what its owner writes into it later is not meant
        try:
            yield
        finally:
            self._local.given = before

    def is_conditioned(self) -> bool:
        """Whether forwards in this thread use a given GIV."""
        return self._local.given is not None

    def check_checkpointing(self, inputs: Any, training: bool) -> None:
        """Refuse to run again, in a backward pass, what may have run under a GIV that is not known there.

        Args:
            inputs: those of the forward that is about to start.
            training: whether the model is in training mode.

        Raises:
            OutsideForwardError: checkpointing around the whole model may be running it a second time.
        """
        if torch.compiler.is_compiling():
            return
        given = self._local.given
        if (-1 if given is None else given.backward) == backward_pass():
            # The reentrant kind runs the first time without gradients, though inputs require them.
            trained = training and (torch.is_grad_enabled() or any(t.requires_grad for t in tensors(inputs)))
            self._given_in_training |= given is not None and trained
        elif self._given_in_training:
            raise OutsideForwardError(
                "The HairModel was run again during a backward pass, as gradient checkpointing around it does, after "
                "forwards under `conditioned_on`, whose GIV is not known here. Enter `conditioned_on` within the "
                "function that is checkpointed, or use `hair.checkpoint_blocks()` in its place."
            )

    def on_split(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forward hook of the split: F_g → GIV → selecting vectors, at the first call in a forward."""
        forward = self.running()
        if _is_run_again(forward):
            raise OutsideForwardError(f"The split '{self.split}' {_RUN_AGAIN}")
        if forward is None or forward.selecting:
            return
        if forward.grad != torch.is_grad_enabled():  # the network may freeze what comes before the split
            with torch.set_grad_enabled(forward.grad):
                self._select(forward, output)
        else:
            self._select(forward, output)

    def _select(self, forward: _Forward, output: Any) -> None:
        given = None if forward.until else self._local.given
        if given is None:
            feature = read_feature(output, self.feature.index, self.feature.layout, forward.image)
            feature = _in_precision_of(forward.hypernetwork.dac, feature)
            if forward.until == "feature":
                forward.found = feature
                raise SplitReached
            giv = forward.hypernetwork.standardization(forward.hypernetwork.dac(feature))
        else:
            giv = given.giv
            if giv.shape[0] not in (1, batch := tensors(output)[self.feature.index].shape[0]):
                raise GIVError(
                    f"`conditioned_on` got {giv.shape[0]} GIVs, but the batch has {batch} images. Give one GIV per "
                    "image, or a single one of shape (1, D) for all."
                )
        if forward.until == "giv":
            forward.found = giv
            raise SplitReached
        if given is not None and (cache := given.cache_for(forward.hypernetwork)) is not None:
            forward.cache = cache
            if not cache.selecting:
                with _ordinary_tensors():
                    cache.selecting = [hsn(giv) for hsn in forward.hypernetwork.hsn]
            forward.selecting = cache.selecting
        else:
            forward.selecting = [hsn(giv) for hsn in forward.hypernetwork.hsn]

    def generate(self, slot: Slot) -> Weights:
        """The per-image weight (B, *shape) and bias (B, out) of one hyper layer.

        Raises:
            OutsideForwardError: no forward is running in this thread, or the split has not run yet.
        """
        forward = self._selected_forward(slot)
        weight, bias = forward.hypernetwork.boxes[slot.level](slot.entry, forward.selecting_of(slot), slot.block)
        return weight, bias

    def compute(self, slot: Slot, prepare: Prepare, input: Tensor, settings: Mapping[str, Any]) -> Tensor:
        """What one hyper layer computes: an operation, prepared by `prepare`, with per-image weights.

        Raises:
            OutsideForwardError: no forward is running in this thread, or the split has not run yet.
        """
        forward = self._selected_forward(slot)
        box, selecting = forward.hypernetwork.boxes[slot.level], forward.selecting_of(slot)
        if forward.cache is None or torch.is_grad_enabled():
            return box(slot.entry, selecting, slot.block, prepare, input, **settings)
        made, key = forward.cache.weights, (slot.level, slot.block, slot.entry)
        if key not in made:
            with _ordinary_tensors():
                made[key] = box(slot.entry, selecting, slot.block)
        weight, bias = made[key]
        input, operation = prepare(input, weight.shape[3:], **settings)
        return per_image(operation, input, weight, bias)

    def _selected_forward(self, slot: Slot) -> _Forward:
        """The running forward, which has selecting vectors."""
        forward = self.running()
        if _is_run_again(forward):
            raise OutsideForwardError(f"A hyper layer of level '{slot.level_name}' {_RUN_AGAIN}")
        if forward is None:
            raise OutsideForwardError(
                f"A hyper layer of level '{slot.level_name}' was called outside its HairModel's forward, where no "
                "image has given it weights. Call the HairModel itself, not its `base` or a part of it; for a model of "
                "ordinary layers use `hair.bake(x)`."
            )
        if forward.found is not None:  # the model caught what ended its forward
            raise SplitReached
        if not forward.selecting:
            raise OutsideForwardError(
                f"A hyper layer of level '{slot.level_name}' was reached before the split '{self.split}' ran, so there "
                "is no GIV yet. The model took another way than on the example inputs: convert it with a `split_at` "
                "that runs first on every input."
            )
        return forward


def _in_precision_of(dac: nn.Module, feature: Tensor) -> Tensor:
    """The feature in the DAC's dtype: networks may compute their halves in different ones."""
    parameter = next(dac.parameters(), None)
    return feature if parameter is None or not parameter.is_floating_point() else feature.to(parameter.dtype)


@dataclass(frozen=True)
class Slot:
    """Where a hyper layer's weights come from.

    Attributes:
        scope: gives them while a forward runs.
        level: index of the level, and so of its Weight Box and HSN.
        block: row of the level's selecting vectors, the block's position in its level.
        entry: the layer's name within its block, and so within the Weight Box.
        bias: whether there is a bias.
        level_name: name of the level, for people.
        box_size: N, for people.
    """

    scope: Scope
    level: int
    block: int
    entry: str
    bias: bool
    level_name: str
    box_size: int
