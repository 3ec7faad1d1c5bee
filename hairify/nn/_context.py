"""How the GIV reaches the hyper layers: beside the call, for one forward, in one thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeAlias, cast

import torch
import torch.fx
from torch import Tensor, nn

from hairify._support.nested import Size, image_size, tensors
from hairify._support.observing import Observation
from hairify._support.sharding import free_gathered, is_sharded
from hairify._support.torch_internals import backward_pass, checkpointed_call, is_hooked
from hairify.errors import GIVError, OutsideForwardError
from hairify.functional._kernels import Chooser
from hairify.functional._tuning import Tuning
from hairify.nn._boxes import BlockWeights, WeightBox
from hairify.nn._features import Feature, read_feature, size_of_map
from hairify.nn._given import Given, GivenGIVs
from hairify.nn._hsn import selecting_vectors
from hairify.nn._slots import BlockSlot

# Bytes of weights of several images that are made ahead in all, and of those that are kept for the backward pass.
_MOST_AHEAD, _MOST_KEPT = 2**28, 2**26

_RUN_AGAIN = (
    "was run again during a backward pass, as gradient checkpointing does, where the selecting vectors of its own "
    "forward are not known. Use `hair.checkpoint_blocks()` in place of checkpointing by the network itself (often an "
    "option `use_checkpoint`), or checkpoint only what runs before the split."
)

for _name in ("read_feature", "size_of_map"):  # named nodes in `HairModel.graph()`: one branches on shapes
    torch.fx.wrap(_name)


@dataclass
class Hypernetwork:
    """The parts that make weights, called where something hangs on a call: hooks, or parameters that are sharded.

    Attributes:
        dac: F_g → (B, D).
        standardization: what the DAC returns → GIV.
        hsn: per level, GIV (B, D) → selecting vectors (B, M, N).
        boxes: per level, selecting vectors → per-image weights.
    """

    dac: nn.Module
    standardization: nn.Module
    hsn: nn.ModuleList
    boxes: nn.ModuleList

    def selecting_vectors(self, giv: Tensor) -> list[Tensor]:
        """Map GIVs (B, D) to the selecting vectors of each level, (B, M, N)."""
        return selecting_vectors(self.hsn, giv)

    def weights_of_blocks(
        self, selecting: list[Tensor], *, ahead: bool = True, tuning: Chooser | None = None
    ) -> list[list[BlockWeights]]:
        """What the layers of each level's blocks compute with; empty where a box must be called for each layer.

        Args:
            selecting: of each level, (B, M, N).
            ahead: whether weights may be made here, before the layers run.
            tuning: chooses kernels; None for the rules.
        """
        left = _MOST_KEPT if torch.is_grad_enabled() else _MOST_AHEAD
        found: list[list[BlockWeights]] = []
        for module, vectors in zip(self.boxes, selecting, strict=False):
            if not _is_open(module) or not isinstance(vectors, Tensor):
                found.append([])
                continue
            box = cast(WeightBox, module)
            size = box.pays_ahead(vectors, left) if ahead else None
            left -= size or 0
            found.append(box.weights_of_blocks(vectors, ahead=size is not None, tuning=tuning))
        return found


def _is_open(box: nn.Module) -> bool:
    """Whether a box's parameters can be used without calling it: none may miss its hooks, or be sharded."""
    is_ours = isinstance(box, WeightBox) and type(box).forward is WeightBox.forward
    return is_ours and not is_hooked(box) and not is_sharded(box)


@dataclass(frozen=True)
class WeightAddress:
    """Where a hyper layer's weights come from.

    Attributes:
        context: of the HairModel; gives the weights while a forward runs.
        level: index of the level, and so of its Weight Box and HSN.
        block: position of the block in its level, and so of its selecting vector among the level's.
        layer_name: name of the layer within its block, and so within the Weight Box; "" where the block is the layer.
        bias: whether there is a bias.
        level_name: name of the level, for messages.
        box_size: N of the Weight Box, for `print`.
        slot: where the weights of the block are found.
    """

    context: ForwardContext
    level: int
    block: int
    layer_name: str
    bias: bool
    level_name: str
    box_size: int
    slot: BlockSlot = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "slot", self.context.slot(self.level, self.block))


Until: TypeAlias = Literal["feature", "giv"]


@dataclass
class RunningForward:
    """One running forward."""

    hypernetwork: Hypernetwork
    image: Size | None = None
    """Size of the input images, None where they are no images."""
    reference: Size | None = None
    """Size of the map that tells the grid of tokens, once it was made."""
    until: Until | None = None
    """What the forward is run for; it ends at the split, once that is found. None: it runs to its end."""
    found: Tensor | None = None
    """F_g or the GIV, whichever the forward is run for."""
    selecting: list[Tensor] = field(default_factory=list)
    """Selecting vectors of each level, (B, M, N); empty until the split has run."""
    blocks: list[list[BlockWeights]] = field(default_factory=list)
    """What the layers of each level's blocks compute with; empty where the level's box is called for each layer."""
    in_program: bool = field(default_factory=torch.compiler.is_compiling)
    """Whether a compiler follows the forward from its start, so that layers need no slots to find their weights in."""
    within_backward: int = field(default_factory=backward_pass)
    """Number of the backward pass within which the forward started, -1 where in none."""
    with_gradients: bool = field(default_factory=torch.is_grad_enabled)
    """Whether gradients were recorded where the forward started."""

    def weights_of(self, address: WeightAddress) -> BlockWeights:
        """The weights of one block."""
        blocks = self.blocks[address.level]
        if blocks:
            return blocks[address.block]
        vectors = self.selecting[address.level][:, address.block]
        return BlockWeights(cast(WeightBox, self.hypernetwork.boxes[address.level]), address.block, vectors)

    def end(self, found: Tensor) -> NoReturn:
        """End the forward at the split, with what it is run for."""
        self.found = found
        raise SplitReached


def _is_run_again(forward: RunningForward | None) -> bool:
    """Whether this is a backward pass that runs a part of some other forward again."""
    if torch.compiler.is_compiling():  # compilers have no number to compare
        return False
    return (-1 if forward is None else forward.within_backward) != backward_pass()


class SplitReached(BaseException):
    """Ends a forward at the split. Not an Exception: a model's own `except Exception` must not catch it."""


class _Local(threading.local):
    """What belongs to one thread."""

    def __init__(self) -> None:  # runs in each thread; compilers compile anew once an absent attribute appears
        self.forward: RunningForward | None = None
        self.slots_are_filled = False
        self.recorder: Chooser | None = None


class _TimeOf(AbstractContextManager[RunningForward]):
    """The time for which a forward is the one that runs in its thread.

    It is a class because the compilers of PyTorch 2.6 follow none that `contextlib` makes of a generator.
    """

    def __init__(self, context: ForwardContext, forward: RunningForward) -> None:
        self._context, self._forward = context, forward
        self._before: RunningForward | None = None

    def __enter__(self) -> RunningForward:
        self._before = self._context.running()  # a hook in the model may run the model, say for its GIV
        self._context.run(self._forward)
        return self._forward

    def __exit__(self, *error: object) -> None:
        self._context.run(self._before)


class ForwardContext:
    """Holds the running forward of one `HairModel`, separately for each thread.

    Hyper layers and the hook at the split keep a reference to it; it refers to no module outside a forward,
    so that copies and pickles of either part hold together by themselves.

    Args:
        split: name of the split, for messages.
        feature: how to read F_g from the split's output.

    Attributes:
        givens: the GIVs given by `conditioned_on`.
        makes_ahead: whether weights may be made at the split: where blocks are checkpointed, they are to be made again.
        tuning: chooses kernels where it fits the device; None for the rules.
    """

    def __init__(
        self,
        split: str,
        feature: Feature,
        slots: dict[tuple[int, int], BlockSlot] | None = None,
        makes_ahead: bool = True,
        tuning: Tuning | None = None,
    ) -> None:
        self.tuning = tuning
        self.split, self.feature, self.makes_ahead = split, feature, makes_ahead
        self._slots = {} if slots is None else slots
        self._local = _Local()
        self.givens = GivenGIVs()
        self._observation = Observation()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "feature": self.feature,
            "slots": self._slots,
            "makes_ahead": self.makes_ahead,
            "tuning": self.tuning,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def forward(
        self, hypernetwork: Hypernetwork, image: Size | None, *, until: Until | None = None
    ) -> AbstractContextManager[RunningForward]:
        """The time of one forward: within it, hyper layers have weights once the split has run.

        Args:
            hypernetwork: the parts that make weights.
            image: size of the input images.
            until: end at the split, with F_g as the DAC gets it or the GIV in `found`.
        """
        return _TimeOf(self, RunningForward(hypernetwork, image, until=until))

    def at_split(
        self, until: Until, hypernetwork: Hypernetwork, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """F_g or the GIV; the network runs up to the split only, in evaluation mode and without a mark on it.

        Raises:
            GIVError: the split never ran.
        """
        image = image_size(args, kwargs)
        run = self.forward(hypernetwork, image, until=until)
        with self.observing(base, hypernetwork), run as forward, contextlib.suppress(SplitReached):
            base(*args, **kwargs)
        if forward.found is None:
            raise GIVError(f"The split {self.split!r} never ran on these inputs, so there is no GIV.")
        if not torch.compiler.is_compiling():
            free_gathered(base, forward.found)
        return forward.found

    def observing(self, base: nn.Module, hypernetwork: Hypernetwork) -> AbstractContextManager[None]:
        """Within it, the model's parts run in evaluation mode; after it, their modes and buffers are as before."""
        parts = (hypernetwork.dac, hypernetwork.standardization, *hypernetwork.hsn, *hypernetwork.boxes)
        return self._observation(base, *parts)

    @contextlib.contextmanager
    def recording(self, recorder: Chooser) -> Iterator[None]:
        """Within it, the forwards of this thread ask `recorder` for kernels; those of others go by the tuning."""
        self._local.recorder = recorder
        try:
            yield
        finally:
            self._local.recorder = None

    def running(self) -> RunningForward | None:
        """The forward that runs in this thread."""
        return self._local.forward

    def run(self, forward: RunningForward | None) -> None:
        """Have a forward, or none, be the one that runs in this thread, and its weights in the slots."""
        self._local.forward = forward
        self._fill_slots(forward)

    def _fill_slots(self, forward: RunningForward | None) -> None:
        """Put the weights of a forward into the slots, or take out those of another."""
        blocks = [] if forward is None or forward.in_program else forward.blocks
        if not blocks and not self._local.slots_are_filled:
            return
        self._local.slots_are_filled = bool(blocks)
        for (level, block), slot in self._slots.items():
            slot.weights = blocks[level][block] if blocks and blocks[level] else None
            slot.within_backward = -1 if forward is None else forward.within_backward

    def slot(self, level: int, block: int) -> BlockSlot:
        """Where the layers of one block find their weights."""
        return self._slots.setdefault((level, block), BlockSlot())

    def resumed(self, forward: RunningForward) -> AbstractContextManager[RunningForward]:
        """The time of a part of a forward behind the split, with its selecting vectors, maybe in a backward pass."""
        again = RunningForward(forward.hypernetwork, selecting=forward.selecting, blocks=forward.blocks)
        return _TimeOf(self, again)

    def check_checkpointing(self, inputs: Any) -> None:
        """Refuse to run under a GIV what will be run again, in a backward pass, where that is not known.

        Args:
            inputs: those of the forward that is about to start.

        Raises:
            OutsideForwardError: the forward is checkpointed, within the block of `conditioned_on`.
        """
        given = self._given()
        if given is None or torch.compiler.is_compiling():
            return
        # The reentrant kind runs the first time without gradients, though inputs require them.
        trained = torch.is_grad_enabled() or any(t.requires_grad for t in tensors(inputs))
        if trained and given.within_checkpoint != checkpointed_call():
            raise OutsideForwardError(
                "The HairModel runs under `conditioned_on` within gradient checkpointing, which will run it again "
                "during the backward pass, where this GIV is not known. Enter `conditioned_on` within the function "
                "that is checkpointed, or use `hair.checkpoint_blocks()` in its place."
            )

    def attach(self, network: nn.Module) -> None:
        """Put the hooks on the network's modules."""
        grid = self.feature.grid
        if grid is not None and grid.module is not None:
            network.get_submodule(grid.module).register_forward_hook(self.on_reference)
        network.get_submodule(self.split).register_forward_hook(self.on_split)

    def on_reference(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forward hook of the module whose map tells the grid of tokens, of its first call in a forward."""
        forward, grid = self.running(), self.feature.grid
        if forward is not None and forward.reference is None and grid is not None:
            forward.reference = size_of_map(output, grid.index, grid.axis)

    def _given(self) -> Given | None:
        """The GIV for what runs now. One around a backward pass is not meant for what that pass runs again."""
        given = self.givens.current()
        if given is None or torch.compiler.is_compiling() or given.within_backward == backward_pass():
            return given
        return given if checkpointed_call() is None else None

    def on_split(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forward hook of the split: F_g → GIV → selecting vectors, at the first call in a forward."""
        forward = self.running()
        if _is_run_again(forward):
            raise OutsideForwardError(f"The split '{self.split}' {_RUN_AGAIN}")
        if forward is None or forward.selecting:
            return
        if forward.with_gradients != torch.is_grad_enabled():  # the network may freeze what comes before the split
            with torch.set_grad_enabled(forward.with_gradients):
                self._select(forward, output)
        else:
            self._select(forward, output)

    def _select(self, forward: RunningForward, output: Any) -> None:
        """Find the selecting vectors of all levels, or end the forward with what it is run for."""
        given = None if forward.until else self._given()
        giv = self._read_giv(forward, output) if given is None else self._checked_giv(given.giv, output)
        if forward.until == "giv":
            forward.end(giv)
        hypernetwork = forward.hypernetwork
        cache = None if given is None else given.cache(hypernetwork.hsn, hypernetwork.boxes)

        def make() -> tuple[list[Tensor], list[list[BlockWeights]]]:
            selecting = hypernetwork.selecting_vectors(giv)
            ahead = self.makes_ahead or not torch.is_grad_enabled()
            return selecting, hypernetwork.weights_of_blocks(selecting, ahead=ahead, tuning=self._chooser(giv.device))

        forward.selecting, forward.blocks = make() if cache is None else cache.kept(make)
        self._fill_slots(forward)

    def _chooser(self, device: torch.device) -> Chooser | None:
        """What chooses kernels: a tuning only on such a device as it was made on, to which it may be a copy's."""
        if torch.compiler.is_compiling():  # which would compile anew with each tuning
            return None
        if not isinstance(device, torch.device):  # in `HairModel.graph()`
            return None
        if self._local.recorder is not None or self.tuning is None:
            return self._local.recorder
        return self.tuning if self.tuning.fits(device) else None

    def _read_giv(self, forward: RunningForward, output: Any) -> Tensor:
        """The GIV that the DAC finds in the split's output; a forward that is run for F_g ends here."""
        dac, standardization = forward.hypernetwork.dac, forward.hypernetwork.standardization
        grid = self.feature.grid
        reference = forward.image if grid is None or grid.module is None else forward.reference
        size = None if grid is None or reference is None else grid.of(reference)
        feature = read_feature(output, self.feature.index, self.feature.layout, forward.image, size)
        feature = _in_precision_of(dac, feature)
        if forward.until == "feature":
            forward.end(feature)
        return standardization(dac(feature))

    def _checked_giv(self, giv: Tensor, output: Any) -> Tensor:
        """A given GIV, checked: it is a single one, or one for each image of the split's output."""
        batch = tensors(output)[self.feature.index].shape[0]
        if giv.shape[0] not in (1, batch):
            raise GIVError(
                f"`conditioned_on` got {giv.shape[0]} GIVs, but the batch has {batch} images. Give one GIV per "
                "image, or a single one of shape (1, D) for all."
            )
        return giv

    def weights_of(self, address: WeightAddress) -> BlockWeights:
        """The weights of one block's layers.

        Raises:
            OutsideForwardError: no forward is running in this thread, or the split has not run yet.
        """
        return self._selected_forward(address).weights_of(address)

    def _selected_forward(self, address: WeightAddress) -> RunningForward:
        """The running forward, which has selecting vectors."""
        forward = self.running()
        if _is_run_again(forward):
            raise OutsideForwardError(f"A hyper layer of level '{address.level_name}' {_RUN_AGAIN}")
        if forward is None:
            raise OutsideForwardError(
                f"A hyper layer of level '{address.level_name}' was called outside its HairModel's forward, where no "
                "image has given it weights. Call the HairModel itself, not its `base` or a part of it; for a model of "
                "ordinary layers use `hair.bake(x)`."
            )
        if forward.found is not None:  # the model caught what ended its forward
            raise SplitReached
        if not forward.selecting:
            raise OutsideForwardError(
                f"A hyper layer of level '{address.level_name}' was reached before the split '{self.split}' ran, so "
                "there is no GIV yet. The model took another way than on the example inputs: convert it with a "
                "`split_at` that runs first on every input."
            )
        return forward


def _in_precision_of(dac: nn.Module, feature: Tensor) -> Tensor:
    """The feature in the DAC's dtype: networks may compute their halves in different ones."""
    for parameter in dac.parameters():  # compilers before PyTorch 2.9 know no `next` with a default
        return feature.to(parameter.dtype) if parameter.is_floating_point() else feature
    return feature
