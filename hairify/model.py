"""`HairModel`: a network whose later layers get their weights from each image."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.fx
from torch import Tensor, nn

from hairify._support.nested import image_size
from hairify._support.observing import untouched_buffers
from hairify._support.randomness import own_generators
from hairify._support.torch_internals import backward_pass, checkpointed_call, is_traced, without_compiler
from hairify.errors import BakeError, ExportError, GIVError, RecomputationError, TuningError
from hairify.functional._measuring import ONE_AT_A_TIME, Recorder, tuned
from hairify.functional._tuning import Tuning
from hairify.nn._baking import bake
from hairify.nn._boxes import LowRankBox, WeightBox
from hairify.nn._calibration import calibrate, check_untrained
from hairify.nn._checkpointing import checkpoint_blocks, is_checkpointed, stop_checkpointing
from hairify.nn._context import ForwardContext
from hairify.nn._converted import Converted
from hairify.nn._given import GivenBlock
from hairify.nn._graph import graph
from hairify.nn._hsn import GIVStandardization
from hairify.nn._signature import forward_of_base
from hairify.planning._plans import Plan


class HairModel(Converted):
    """A converted network; made by `hairify` and `load`, not directly.

    It takes and returns what the original takes and returns. Attributes that it does not have itself are
    those of `base`.

    Attributes:
        base: the original network, its later layers replaced by hyper layers.
        dac: the Degradation-Aware Classifier, F_g → (B, D).
        standardization: what the DAC returns → GIV (B, D).
        hsn: per level, the Hyper Selecting Nets, GIV (B, D) → selecting vectors (B, M, N).
        boxes: per level, the Weight Box.
        plan: what was converted, and why.
    """

    plan: Plan

    def __init__(
        self,
        base: nn.Module,
        dac: nn.Module,
        standardization: GIVStandardization,
        hsn: nn.ModuleList,
        boxes: nn.ModuleList,
        plan: Plan,
        context: ForwardContext,
    ) -> None:
        super().__init__()
        self.base, self.dac, self.standardization, self.hsn, self.boxes = base, dac, standardization, hsn, boxes
        self.plan, self._context = plan, context
        self.training = base.training

    @forward_of_base
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the original network takes and returns, each image restored with its own weights.

        Raises:
            ExportError: `torch.jit.trace` runs it, or what goes by it: `torch.onnx.export(..., dynamo=False)`.
        """
        if is_traced():
            raise self._torchscript_error()
        self._context.check_checkpointing((args, kwargs))
        # Checkpointing around the model runs it again, which must not move BatchNorm's statistics a second time.
        again = backward_pass() != -1 and checkpointed_call() is not None
        kept = untouched_buffers(self) if again else contextlib.nullcontext()
        with kept, self._context.forward(self._hypernetwork, image_size(args, kwargs)):
            return self.base(*args, **kwargs)

    def giv(self, *args: Any, **kwargs: Any) -> Tensor:
        """The global information vectors (B, D) of a batch; the network runs up to the split only.

        It runs in evaluation mode, whatever mode the model is in, and leaves buffers as they are.

        Raises:
            GIVError: the split never ran.
        """
        return self._context.at_split("giv", self._hypernetwork, self.base, args, kwargs)

    def calibrate(self, *args: Any, **kwargs: Any) -> HairModel:
        """Set DAC and HSNs to what degraded images look like to this network, before it is trained.

        For example:

            hair = hairify(network)
            hair.calibrate(degraded)  # (256, 3, 128, 128), say: patches as in training, of all degradations

        The DAC's moments are whitened, GIVs get mean 0 and variance 1, and so do the outputs of each hidden layer of
        the HSNs (see docs/conditioning.md). What the network computes stays the same; it learns to use its GIV much
        faster. The numbers found are part of the model's state: copies and checkpoints keep them. No random numbers
        are drawn, so that processes which are given the same images calibrate alike. `hairify train` does this by
        itself.

        Args:
            args: the network's inputs, for a batch of degraded images; 256 or so are good. They are run a few at a
                time, as far as the split, in evaluation mode.
            kwargs: further inputs.

        Returns:
            The model itself.

        Raises:
            CalibrationError: fewer than two images, images that all look the same to the DAC, values that are not
                finite, or a model that has been trained since its conversion. The model is as it was.
        """
        self.check_calibration()
        calibrate(self.base, self._hypernetwork, self._context, args, kwargs)
        return self

    def check_calibration(self) -> None:
        """Make sure that the model may still be calibrated: that it computes the same whatever its HSNs select.

        Raises:
            CalibrationError: the model has been trained since its conversion.
        """
        check_untrained(self._hypernetwork)

    @property
    def is_calibrated(self) -> bool:
        """Whether `calibrate` was called."""
        return self.standardization.is_calibrated

    def selecting_vectors(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The selecting vectors of a batch: {block name: (B, N)}, each positive with sum 1; found as by `giv`."""
        hypernetwork = self._hypernetwork
        with self._context.observing(self.base, hypernetwork):
            giv = self._context.at_split("giv", hypernetwork, self.base, args, kwargs)
            vectors = hypernetwork.selecting_vectors(giv)
        return {
            block: per_block[:, m]
            for level, per_block in zip(self.plan.levels, vectors, strict=True)
            for m, block in enumerate(level.blocks)
        }

    def conditioned_on(self, giv: Tensor) -> GivenBlock[HairModel]:
        """Within it, forwards use `giv` and skip the DAC.

            with hair.conditioned_on(hair.giv(whole)):
                tiles = [hair(tile) for tile in tiles_of(whole)]

        It holds for the code of the block, and what that calls: other threads and asyncio tasks do not see it, but
        for those that get a copy of the block's context (`asyncio.create_task`, `gather` and `to_thread`), and these
        only until the block ends. In a generator it holds while the generator runs, and not for its consumer; what
        `contextlib` makes a context manager of conditions the block that it is used for.

        Args:
            giv: shape (B, D), one per image of the batches to come, or (1, D) for batches of any size.

        Returns:
            A context manager for one block, which gives the model itself; also a decorator of functions.

        Raises:
            GIVError: another shape; when it is entered, that this is done in an asynchronous generator, or again.
        """
        return GivenBlock(self._context.givens, self._checked(giv), self)

    def bake(self, *args: Any, giv: Tensor | None = None, **kwargs: Any) -> nn.Module:
        """The static network for one image: the original class with ordinary layers, nothing of hairify in it.

        Its `state_dict` has the original keys in the original order, so it loads into the original class.

        Args:
            args: the inputs of one image, as the network takes them.
            giv: shape (1, D), instead of inputs.
            kwargs: further inputs of that image.

        Raises:
            BakeError: both or neither given, or more than one image.
            GIVError: `giv` is no GIV.
        """
        if (giv is None) == (not args and not kwargs):
            raise BakeError(
                "`bake` takes either the inputs of one image, `bake(x)`, or `bake(giv=...)` of shape (1, D)."
            )
        if giv is None:
            with torch.no_grad():
                giv = self.giv(*args, **kwargs)
        giv = self._checked(giv)
        if giv.shape[0] != 1:
            raise BakeError(
                f"`bake` makes a network for one image, but got {giv.shape[0]}. Bake each on its own, or the mean of "
                "their GIVs: `bake(giv=hair.giv(x).mean(0, keepdim=True))`."
            )
        return bake(self.base, self._context, self._hypernetwork, giv)

    def graph(self) -> torch.fx.GraphModule:
        """The whole computation as a graph: split → DAC → HSNs → boxes → per-image operations, each a named node.

        The graph module holds a copy of the parameters.

        Raises:
            GraphError: torch.fx cannot follow the network.
        """
        return graph(self)

    def checkpoint_blocks(self, enabled: bool = True) -> HairModel:
        """Trade time for memory in training: the blocks' activations and weights are made again in the backward pass.

        It holds for the blocks of all levels, where gradients are recorded. The second run uses the first one's
        selecting vectors and random numbers, and leaves buffers such as BatchNorm's alone. `nn.DataParallel`
        cannot replicate checkpointed blocks; DDP and FSDP need no replicas.

        Args:
            enabled: False turns it off.

        Returns:
            The model itself.
        """
        stop_checkpointing(self.base, self._context)
        if enabled:
            checkpoint_blocks(self.base, self._context, (block for level in self.plan.levels for block in level.blocks))
        return self

    def recompute_weights(self, enabled: bool | None = None) -> HairModel:
        """Whether generated weights are made again in the backward pass instead of kept for it.

        Kept, they take B times the memory of the converted layers. Made again they take N multiplications (in low-rank
        boxes N·rank) for each of their numbers, little beside what the layer itself does with each on maps of some
        size. Programs of `torch.compile` and `torch.func` keep what they need by themselves, whatever is said here.

        Args:
            enabled: for all layers; None, as it is from the start: for those whose map is large enough, but in levels
                of so few weights that they are made before the layers run, on CPUs 2 MiB for all images.

        Returns:
            The model itself.
        """
        for box in self.boxes:
            cast(WeightBox, box).recompute = enabled
        return self

    def tune(self, *args: Any, **kwargs: Any) -> HairModel:
        """Choose the kernels of per-image layers by measurement, where the rules go by shapes alone.

        For example:

            hair.train().tune(batch)  # within autocast, and with channels last, where they are used later

        What is quickest depends on the processor, the layer and the batch. Each of the layers that these inputs lead
        through is timed for its shape, forward and backward, by each kernel that can compute it; the choices are
        kept for such inputs, as by `torch.backends.cudnn.benchmark`. Outputs stay the same up to rounding. What was
        measured before stays; after `hair.use_tuning(None)` it is measured anew. With one image, or one GIV for all,
        layers compute as ordinary ones, and there is nothing to choose. Compilers, exporters and FSDP go by the rules.
        Copies and pickles of the model keep the choices; checkpoints do not.

        Args:
            args: the network's inputs, say images (B, 3, H, W), as many as in the batches to come. They are run once,
                in evaluation mode and without gradients: the layers of a training step have the same shapes.
            kwargs: further inputs.

        Returns:
            The model itself; `hair.tuning` has the choices. Random numbers, modes and buffers are as before.

        Raises:
            HairError: whatever a forward of these inputs raises; nothing is chosen then.
        """
        recorder, device = Recorder(), self._device
        with (
            without_compiler(),
            own_generators(0, () if device.type in ("cpu", "meta") else (device,)),
            torch.no_grad(),
            self._context.observing(self.base, self._hypernetwork),
            self._context.recording(recorder),
        ):
            self(*args, **kwargs)
        with ONE_AT_A_TIME:
            self._context.tuning = tuned(recorder.cases, device, self.tuning)
        return self

    @property
    def tuning(self) -> Tuning | None:
        """The kernels that were chosen by measurement; `print` shows them. None without."""
        return self._context.tuning

    def use_tuning(self, tuning: Tuning | None) -> HairModel:
        """Choose kernels by a tuning made before, as `Tuning.load` reads it; None goes back to the rules.

        For example:

            hair.tuning.save("tuning.json")
            hair.use_tuning(Tuning.load("tuning.json"))  # from hairify.functional import Tuning

        Returns:
            The model itself.

        Raises:
            TuningError: it was made on another device, for another number of threads or with another PyTorch, or chose
                kernels of Triton, which is not installed. The model keeps what it had.
        """
        if tuning is not None and tuning.lacks_triton:
            raise TuningError("The tuning chose kernels of Triton, which is not installed here: `pip install triton`.")
        if tuning is not None and not tuning.fits(self._device):
            here = Tuning.of_device(self._device, {})
            there, now = (
                f"{t.device}{f' with {t.threads} thread(s)' if t.threads else ''} by PyTorch {t.release}"
                for t in (tuning, here)
            )
            raise TuningError(
                f"The tuning was measured on {there}, and says nothing about {now}. Measure anew: `hair.tune(images)`."
            )
        self._context.tuning = tuning
        return self

    @property
    def _device(self) -> torch.device:
        """Where the boxes are."""
        return next(self.boxes.parameters()).device

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer that decay all parameters but the factors of low-rank boxes.

            optimizer = torch.optim.AdamW(hair.parameter_groups(weight_decay=1e-2), lr=2e-4)

        Decay pulls those factors, which are the differences between a box's rows, to zero, and so all images
        to the same weights; the rows of full boxes it leaves apart.

        Args:
            weight_decay: of the other parameters.

        Returns:
            One group, or two where there are low-rank boxes. Each parameter is in exactly one.
        """
        factors = [p for box in self.modules() if isinstance(box, LowRankBox) for p in box.factors()]
        known = {id(p) for p in factors}
        groups = [{"params": [p for p in self.parameters() if id(p) not in known], "weight_decay": weight_decay}]
        return [*groups, {"params": factors, "weight_decay": 0.0}] if factors else groups

    def hair_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that conversion added: DAC, HSNs and Weight Boxes; the standardisation of GIVs has none."""
        for part in (self.dac, self.hsn, self.boxes):
            yield from part.parameters()

    def base_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that the network kept as they were."""
        yield from self.base.parameters()

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are trained, of how many, in the base and in what was added."""
        for name, parameters in (("base", [*self.base_parameters()]), ("added", [*self.hair_parameters()])):
            trained, total = sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
            print(f"{name}: {trained:,} of {total:,} parameters are trained")

    def extra_repr(self) -> str:
        """The split and the levels."""
        levels = ", ".join(f"{v.name} (M={len(v.blocks)}, N={v.box_size})" for v in self.plan.levels)
        return f"split={self.plan.split!r}, levels: {levels}"

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "__signature__":  # of a call, as `inspect` asks for it
                return inspect.signature(self.forward)
            base = self.__dict__.get("_modules", {}).get("base")
            if base is None or name.startswith("__"):
                raise
            return getattr(base, name)

    def _replicate_for_data_parallel(self) -> HairModel:
        if self._context.givens.current() is not None:
            raise GIVError(
                "`nn.DataParallel` runs replicas in threads of their own, in which the GIV given by `conditioned_on` "
                "does not count. Call the model itself, or use DistributedDataParallel."
            )
        if is_checkpointed(self.base):
            raise RecomputationError(
                "`nn.DataParallel` cannot replicate checkpointed blocks. Use DistributedDataParallel, or "
                "`hair.checkpoint_blocks(False)`."
            )
        return super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]

    def __prepare_scriptable__(self) -> None:  # `torch.jit.script` calls it
        raise self._torchscript_error()

    def _torchscript_error(self) -> ExportError:
        return ExportError(
            f"A HairModel (of {type(self.base).__name__}) cannot become TorchScript, which has no place for weights of "
            "each image. Use `torch.export`, ONNX with `dynamo=True`, or `torch.compile`; the network for one image, "
            "`hair.bake(x)`, is an ordinary one."
        )

    def _checked(self, giv: Tensor) -> Tensor:
        if not isinstance(giv, Tensor) or giv.ndim != 2 or giv.shape[1] != self.plan.giv_dim or not giv.shape[0]:
            got = tuple(giv.shape) if isinstance(giv, Tensor) else type(giv).__name__
            raise GIVError(
                f"A GIV of this model has shape (B, {self.plan.giv_dim}); got {got}. `hair.giv(x)` makes one."
            )
        return giv
