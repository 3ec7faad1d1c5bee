"""The four settings of the paper's Table 5: with the DAC or without, with HSNs or without."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hairify.boxes import GIVStandardization, HyperSelectingNet
from hairify.calibration import calibrate
from hairify.conversion import assemble
from hairify.copying import copy_model
from hairify.errors import CalibrationError, NetworkError, OptionError, OutsideForwardError
from hairify.features import find_feature, image_size
from hairify.kernels import rows_per_image
from hairify.layers import is_layer
from hairify.model import HairModel
from hairify.plan import Plan
from hairify.probing import Probe
from hairify.randomness import cpu_generator, seeded
from hairify.recording import Call
from hairify.scope import Hyper, Scope

Variant: TypeAlias = Literal["static", "dac", "hsn", "both"]
VARIANTS: tuple[str, ...] = get_args(Variant)


def make_variant(
    variant: str,
    network: nn.Module,
    plan: Plan,
    *,
    example_inputs: Any = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """One setting of the paper's Table 5, from the weights of one network.

    With a plan of `init="preserve"` all of them compute at first what `network` computes.

    Args:
        variant: "static", the network as it is (a); "dac", the GIV as an embedding of ordinary blocks (b), see
            `ConditionalEmbedding`; "hsn", hyper layers whose GIVs are learned and know no image (c), see
            `LearnedGIVs`; "both", the network as `hairify` converts it (d).
        network: is copied.
        plan: of its conversion. It says where the split is and which blocks are concerned, for all settings alike.
        example_inputs: as for `hairify`; "dac" alone runs the network once.
        generator: makes random draws reproducible. The same state gives "dac" and "both" the same DAC.

    Raises:
        OptionError: there is no such variant.
        NetworkError: "dac" finds no channels in what a block returns.
        HairError: see `hairify`.
    """
    if variant == "static":
        return copy_model(network)
    if variant == "dac":
        return embed(network, plan, example_inputs=example_inputs, generator=generator)
    if variant == "hsn":
        return with_learned_givs(network, plan, generator=generator)
    if variant == "both":
        return assemble(network, plan, cpu_generator(generator), inplace=False)
    raise OptionError(f"`variant` is {variant!r}; accepted are {', '.join(map(repr, VARIANTS))}.")


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
        scope: Scope,
    ) -> None:
        super().__init__()
        self.base, self.dac, self.projections, self._scope = base, dac, projections, scope
        self.standardization = standardization
        self.training = base.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network takes and returns."""
        # A scope runs the DAC, then all that makes something of the GIV: HSNs in a HairModel, projections here.
        with self._scope.forward(self._hyper, image_size(args, kwargs)):
            return self.base(*args, **kwargs)

    def calibrate(self, *args: Any, **kwargs: Any) -> ConditionalEmbedding:
        """As `HairModel.calibrate`, for the DAC and the GIVs: what the network computes stays the same.

        Raises:
            CalibrationError: see `HairModel.calibrate`.
        """
        self.check_calibration()
        calibrate(self.base, self._hyper, self._scope, args, kwargs)
        return self

    @property
    def is_calibrated(self) -> bool:
        """Whether `calibrate` was called."""
        return self.standardization.is_calibrated

    def check_calibration(self) -> None:
        """Make sure that the network may still be calibrated: that it computes the same whatever the GIV.

        Raises:
            CalibrationError: it has been trained.
        """
        if any(bool(p.any()) for p in self.projections.parameters()):
            raise CalibrationError("The network has been trained: its blocks are shifted already. Calibrate it before.")

    @property
    def _hyper(self) -> Hyper:
        return Hyper(self.dac, self.standardization, self.projections, nn.ModuleList())


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
    base, scope = copy_model(network), Scope(plan.split, plan.feature)
    base.get_submodule(plan.split).register_forward_hook(scope.on_split)
    for index, block in enumerate(blocks):
        base.get_submodule(block.module).register_forward_hook(_Shift(scope, index, block).on_output)
    return ConditionalEmbedding(base, dac, standardization, projections, scope)


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
        """As the feature of a whole image, whose positions show the image's aspect ratio."""
        if is_layer(self._model.get_submodule(call.module)):
            return None
        shapes = [returned.shape if returned.real else () for returned in call.returned]
        feature = find_feature(shapes, self._batch, self._image, strict=True)
        if feature is None or feature.layout == "vector":
            return None
        axis = 1 if feature.layout == "map" else -1
        return _Place(call.module, feature.index, axis, feature.channels)

    def _as_last_layer(self, call: Call, inside: list[Call]) -> _Place | None:
        """As the block's last layer returns it: windows and pooled features show no aspect ratio."""
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
    """What one block's hook does; `on_output`, a bound method, is copied and pickled together with its scope."""

    scope: Scope
    index: int
    place: _Place

    def on_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Forward hook: the output, shifted by the block's projection of the GIV."""
        forward = self.scope.running()
        if forward is None or not forward.selecting:
            raise OutsideForwardError(
                f"The block {self.place.module!r} ran where no GIV is known: outside its model's forward (also "
                f"gradient checkpointing runs it there), or before the split {self.scope.split!r}."
            )
        shift = forward.selecting[self.index]  # (B, C)
        leaves, structure = pytree.tree_flatten(output)
        position = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)][self.place.index]
        leaves[position] = self._shifted(leaves[position], shift)
        return pytree.tree_unflatten(leaves, structure)

    def _shifted(self, feature: Tensor, shift: Tensor) -> Tensor:
        shift = shift.repeat_interleave(rows_per_image(feature, shift.shape[0]), dim=0).to(feature)
        between = (1,) * (feature.ndim - 2)
        if self.place.axis == 1:
            return feature + shift.view(*shift.shape, *between)
        return feature + shift.view(shift.shape[0], *between, shift.shape[1])


class LearnedGIVs(nn.Module):
    """A learned vector for each block of a level in place of the image's GIV (paper, section 4.3 (c)).

    It stands where a level's HSN stood, and runs it.

    Args:
        net: the level's HSN.
        vectors: one GIV for each block, shape (M, D).
    """

    def __init__(self, net: HyperSelectingNet, vectors: Tensor) -> None:
        super().__init__()
        self.net, self.vectors = net, nn.Parameter(vectors)

    def forward(self, giv: Tensor) -> Tensor:
        """The selecting vectors (1, M, N), the same for every image; `giv` is not looked at."""
        every: Tensor = self.net(self.vectors)  # (M, M, N): each vector through each block's net
        return every.diagonal(dim1=0, dim2=1).T.unsqueeze(0)


class NoDAC(nn.Module):
    """In place of the DAC: zeros, whatever the image.

    Args:
        in_channels: channels of F_g.
        giv_dim: D.
    """

    def __init__(self, in_channels: int, giv_dim: int) -> None:
        super().__init__()
        self.giv_dim = giv_dim

    def forward(self, feature: Tensor) -> Tensor:
        """Map F_g of shape (B, C, H, W) to zeros (B, D)."""
        return feature.new_zeros(feature.shape[0], self.giv_dim)


def with_learned_givs(network: nn.Module, plan: Plan, *, generator: torch.Generator | None = None) -> HairModel:
    """A copy of a network converted without a DAC: each block's HSN gets a vector of its own, drawn from N(0, 1).

    `save` and `load` do not know of these vectors.

    Args:
        network: the network.
        plan: of its conversion; its DAC is left out.
        generator: for all random draws.

    Raises:
        HairError: the plan does not fit.
    """
    drawn = cpu_generator(generator)
    blind = dataclasses.replace(plan, dac=NoDAC.__name__, dac_name=None, dac_width=None, dac_source=NoDAC)
    hair = assemble(network, blind, drawn, inplace=False)
    for index, level in enumerate(plan.levels):
        net = cast(HyperSelectingNet, hair.hsn[index])
        vectors = torch.randn(len(level.blocks), plan.giv_dim, generator=drawn)
        hair.hsn[index] = LearnedGIVs(net, vectors.to(next(net.parameters()))).train(network.training)
    before, _ = plan.parameters
    hair.plan = dataclasses.replace(hair.plan, parameters=(before, count(hair)))
    return hair


def count(network: nn.Module) -> int:
    """The number of a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
