"""A baseline beside HAIR: the unconverted network, with features shifted by an embedding of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from einops import repeat
from torch import Tensor, nn

from hairify._support.copying import copy_model
from hairify._support.nested import image_size
from hairify._support.randomness import cpu_generator, seeded
from hairify._support.torch_internals import tree_flatten, tree_unflatten
from hairify.errors import CalibrationError, NetworkError, OutsideForwardError
from hairify.functional._kernels import rows_per_image
from hairify.nn._calibration import calibrate
from hairify.nn._context import ForwardContext, Hypernetwork
from hairify.nn._features import find_feature
from hairify.nn._hsn import GIVStandardization
from hairify.nn._layers import is_layer
from hairify.planning._plans import Plan
from hairify.planning._probe import Probe
from hairify.planning._recording import Call


class ConditionalEmbedding(nn.Module):
    """A network whose blocks are told the GIV, but keep their weights (paper, section 4.3 (b)); made by `embed`.

    What a block returns is shifted by a linear projection of the GIV, one number per channel. It is the output that is
    shifted because some blocks overwrite their input, which the network goes on to use. Projections start at zero,
    where the network computes what it did.

    Attributes:
        base: the network, with hooks at the split and the blocks.
        dac: the Degradation-Aware Classifier, F_g → (B, D).
        standardization: what the DAC returns → GIV (B, D).
        projections: for each block in the plan's order, GIV (B, D) → shift (B, C).
    """

    def __init__(
        self,
        base: nn.Module,
        dac: nn.Module,
        standardization: GIVStandardization,
        projections: nn.ModuleList,
        context: ForwardContext,
    ) -> None:
        super().__init__()
        self.base, self.dac, self.projections, self._context = base, dac, projections, context
        self.standardization = standardization
        self.training = base.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network takes and returns."""
        # A context runs the DAC, then all that makes something of the GIV: HSNs in a HairModel, projections here.
        with self._context.forward(self._hypernetwork, image_size(args, kwargs)):
            return self.base(*args, **kwargs)

    def calibrate(self, *args: Any, **kwargs: Any) -> ConditionalEmbedding:
        """Calibrate DAC and GIVs as `HairModel.calibrate` does: what the network computes stays the same.

        Raises:
            CalibrationError: see `HairModel.calibrate`.
        """
        self.check_calibration()
        calibrate(self.base, self._hypernetwork, self._context, args, kwargs)
        return self

    @property
    def is_calibrated(self) -> bool:
        """Whether `calibrate` was called."""
        return self.standardization.is_calibrated

    def check_calibration(self) -> None:
        """Make sure that the network may still be calibrated: that it computes the same whatever the GIV.

        Raises:
            CalibrationError: the network has been trained.
        """
        if any(bool(p.any()) for p in self.projections.parameters()):
            raise CalibrationError("The network has been trained: its blocks are shifted already. Calibrate it before.")

    @property
    def _hypernetwork(self) -> Hypernetwork:
        return Hypernetwork(self.dac, self.standardization, self.projections, nn.ModuleList())


def embed(
    network: nn.Module, plan: Plan, *, example_inputs: Any = None, generator: torch.Generator | None = None
) -> ConditionalEmbedding:
    """A copy of a network with the GIV as an embedding of the plan's blocks, which stay ordinary.

    Args:
        network: the network.
        plan: of its conversion.
        example_inputs: as for `hairify`; the network runs on them once.
        generator: for the weights of the DAC.

    Raises:
        NetworkError: what a block returns has no recognisable channels.
        HairError: the plan does not fit, or the network cannot be run on the inputs.
    """
    plan.check(network)
    places = _Places(Probe(network, example_inputs), plan)
    blocks = [places.of(block) for level in plan.levels for block in level.blocks]
    like = next(network.get_submodule(plan.levels[0].layer_names(plan.levels[0].layers[0])[0]).parameters())
    with seeded(cpu_generator(generator)):
        dac = plan.make_dac()
    standardization = GIVStandardization(plan.giv_dim)
    projections = nn.ModuleList(nn.Linear(plan.giv_dim, block.channels, bias=False) for block in blocks)
    for parameter in projections.parameters():
        nn.init.zeros_(parameter)
    for part in (dac, standardization, projections):
        part.to(device=like.device, dtype=like.dtype).train(network.training)
    base, context = copy_model(network), ForwardContext(plan.split, plan.feature)
    context.attach(base)
    for index, block in enumerate(blocks):
        base.get_submodule(block.module).register_forward_hook(_Shift(context, index, block).on_output)
    return ConditionalEmbedding(base, dac, standardization, projections, context)


@dataclass(frozen=True)
class _Place:
    """Where the GIV is told to a block.

    Attributes:
        module: the module whose output is shifted.
        index: position among the tensors of its flattened output.
        axis: that of the channels, 1 or -1.
        channels: their number.
    """

    module: str
    index: int
    axis: int
    channels: int


class _Places:
    """Finds the channels in what blocks return, from one run of the network."""

    def __init__(self, probe: Probe, plan: Plan) -> None:
        self._model, self._batch, self._image = probe.model, probe.inputs.batch, probe.inputs.image
        first = probe.recording.first_calls()
        reached = first[plan.split].end if plan.split in first else 0
        self._calls = [call for call in probe.recording.calls if first[call.module].end > reached]

    def of(self, block: str) -> _Place:
        """The block's own output; that of the last module called in it, where it is a container and not called itself.

        Raises:
            NetworkError: the block never runs after the split, or what it returns has no recognisable channels.
        """
        inside = [call for call in self._calls if f"{call.module}.".startswith(f"{block}.")]
        if not inside:
            raise NetworkError(f"The block {block!r} is never called behind the split. {_WAY_OUT}")
        last = inside[-1]  # calls stand in the order in which they end, so that the outermost is the last
        found = self._feature(last) or self._as_last_layer(last, inside)
        if found is None:
            shapes = ", ".join(str(returned.shape) for returned in last.returned) or "no tensor"
            raise NetworkError(
                f"The block {block!r} returns {shapes} for {self._batch} image(s), in which no channels can be told: "
                "neither a feature of the whole image, such as (B, C, h, w), (B, h, w, C) or (B, L, C), nor what its "
                f"last layer returns. {_WAY_OUT}"
            )
        return found

    def _feature(self, call: Call) -> _Place | None:
        """Where channels are, if the output is the feature of a whole image: positions show its aspect ratio."""
        if is_layer(self._model.get_submodule(call.module)):
            return None
        shapes = [returned.shape if returned.real else () for returned in call.returned]
        feature = find_feature(shapes, self._batch, self._image, strict=True)
        if feature is None or feature.layout == "vector":
            return None
        axis = 1 if feature.layout == "map" else -1
        return _Place(call.module, feature.index, axis, feature.channels)

    def _as_last_layer(self, call: Call, inside: list[Call]) -> _Place | None:
        """Where channels are, as the block's last layer has them: windows and pooled features show no aspect ratio."""
        layers = [module for c in inside if is_layer(module := self._model.get_submodule(c.module))]
        if not layers:
            return None
        last = layers[-1]
        axis, channels = (-1, last.out_features) if isinstance(last, nn.Linear) else (1, cast(int, last.out_channels))
        for index, returned in enumerate(call.returned):
            shape = returned.shape
            fits = len(shape) > 1 and shape[0] and shape[0] % self._batch == 0 and shape[axis] == channels
            if fits and returned.real:
                return _Place(call.module, index, axis, channels)
        return None


_WAY_OUT = "Leave the block out (`exclude`), or the variant 'dac'."


@dataclass(frozen=True, eq=False)
class _Shift:
    """What one block's hook does; `on_output`, a bound method, is copied and pickled together with its context."""

    context: ForwardContext
    index: int
    place: _Place

    def on_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Forward hook: the output, shifted by the block's projection of the GIV."""
        forward = self.context.running()
        if forward is None or not forward.selecting:
            raise OutsideForwardError(
                f"The block {self.place.module!r} ran where no GIV is known: outside its model's forward (also "
                f"gradient checkpointing runs it there), or before the split {self.context.split!r}."
            )
        shift = forward.selecting[self.index]  # (B, C)
        leaves, structure = tree_flatten(output)
        position = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)][self.place.index]
        leaves[position] = self._shifted(leaves[position], shift)
        return tree_unflatten(leaves, structure)

    def _shifted(self, feature: Tensor, shift: Tensor) -> Tensor:
        shift = repeat(shift, "b c -> (b rows) c", rows=rows_per_image(feature, shift.shape[0])).to(feature)
        between = (1,) * (feature.ndim - 2)
        if self.place.axis == 1:
            return feature + shift.view(*shift.shape, *between)
        return feature + shift.view(shift.shape[0], *between, shift.shape[1])
