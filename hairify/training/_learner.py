"""A network that is learning: its objective, optimizer, average, and their state as tensors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import DistributedType, broadcast  # type: ignore[import-untyped]
from torch import Tensor, nn

from hairify._support.copying import copy_model
from hairify._support.isolation import pass_on_lack_of_memory
from hairify.data.samples import Batch
from hairify.errors import OptionError, TrainingError
from hairify.functional import Tuning
from hairify.model import HairModel
from hairify.networks._embedding import ConditionalEmbedding
from hairify.networks._running import for_network, number_of_inputs, settle_output
from hairify.nn._moments_dac import MomentsDAC
from hairify.training._averaging import WeightAverage
from hairify.training._compute import channels_together, keep_channels_together, telling_of_the_compiler
from hairify.training._freezing import freeze, keep_statistics
from hairify.training._losses import Loss, is_own, l1_loss, loss_for
from hairify.training._objective import Objective, beside, why_not_classify
from hairify.training._optimizer import RELATIVE_RATE, adamw, load_state_tensors, parts_without, state_tensors
from hairify.training._reachability import added_parameters, reached
from hairify.training._settings import TrainingSettings
from hairify.training._sharding import like, whole
from hairify.training._tuning import RunTuning

_PLAIN = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)

_CLASSIFY = 0.1
"""Weight of telling the degradation from the GIV where no other is given; docs/conditioning.md has the measurements."""


@dataclass(frozen=True)
class Gradients:
    """What was found while they were made; the same in all processes.

    Attributes:
        losses: of each image of the step (B,), on the CPU.
        tasks: of each image, the index of its task.
        norm: of all gradients together, before it was clipped.
        stop: some process was asked to end.
    """

    losses: Tensor
    tasks: list[int]
    norm: float
    stop: bool


class Learner:
    """A copy of a network, on the processes of an accelerator.

    Args:
        model: is left as it is.
        loss: what is brought down.
        settings: the recipe.
        accelerator: processes, device and precision.
        examples: samples by which parameters are found that no loss reaches; of each size on which it is trained.
        degradations: the number of each task's degradation.
        weights: state of the network to go on from; None for the model's own.
        calibration: degraded images (B, 3, H, W) on which a network with a GIV is calibrated before it learns.

    Attributes:
        classify: weight of telling the degradation from the GIV; 0 where that is not taught.
        skipped: how many of the last updates, without a break, fp16 has left out since a gradient was not finite.

    Raises:
        OptionError: the settings do not fit the network.
        TrainingError: there is nothing to train, or nothing of what was added to a network for its GIV; the network
            cannot be run on the samples; or `weights` are of another network.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        settings: TrainingSettings,
        accelerator: Accelerator,
        examples: Sequence[Batch],
        degradations: Sequence[int],
        weights: Mapping[str, Tensor] | None,
        calibration: Tensor | None = None,
    ) -> None:
        self._settings, self._accelerator = settings, accelerator
        self._network = _prepared(model, settings).to(accelerator.device)
        self._like = for_network(self._network, torch.empty(0))
        if weights is not None:
            _load(self._network, weights)
        tried = self._images(examples[0])
        self._output = _settled_output(self._network, tried[0])  # now: a sharded network cannot be copied
        self._idle = _idle(self._network, loss, *tried)
        for other in examples[1:]:
            reached(self._network, loss, *self._images(other), wanted=dict(self._network.named_parameters()))
        if calibration is not None:
            assert isinstance(self._network, (HairModel, ConditionalEmbedding))
            images = for_network(self._network, calibration)
            self._network.calibrate(*[images] * number_of_inputs(self._network))
            self._agree_on(self._network)  # devices round differently
        if settings.freeze_base and isinstance(self._network, HairModel):
            keep_statistics(self._network.base)
        keep_statistics(self._network, settings.freeze)
        classes = max(degradations) + 1
        if settings.uncertainty and classes < 2:
            raise OptionError(
                "`uncertainty` weighs the losses of several degradations, and all training images show the same. "
                "Leave it off."
            )
        self.classify = self._weight_of_classifying(loss, examples[0], classes)
        self._parts = Objective(
            self._network, loss, self.classify, classes, uncertainty=settings.uncertainty, sharded=settings.fsdp
        )
        self._parts.to(accelerator.device)
        if self._parts.classifier is not None:
            self._agree_on(self._parts.classifier)  # each process draws its own
        self._degradations = torch.tensor(degradations)
        if settings.channels_last:
            keep_channels_together(self._network)
        if settings.compile:
            self._network.compile()
        self._objective, self._optimizer = accelerator.prepare(self._parts, self._adamw())
        # Nothing is scaled, sharded or summed up late: then PyTorch's own steps do what accelerate's do, which look for
        # packages and signatures each time.
        self._plain = accelerator.scaler is None and accelerator.distributed_type in _PLAIN
        self._average = WeightAverage(self._network, settings.ema_decay) if settings.ema_decay else None
        self.skipped = 0

    def notes(self) -> list[str]:
        """What a user should know of how it learns."""
        notes = []
        chosen, count = self._output
        if count > 1:
            notes.append(
                f"The network returns {count} images. Number {chosen + 1}, to which most of it leads, counts as the "
                "restored one; if that is another, let its forward return that one alone."
            )
        if self._idle:
            names = ", ".join(self._idle[:3]) + (", ..." if len(self._idle) > 3 else "")
            notes.append(
                f"{len(self._idle)} parameters got no gradient in a trial, and learn when a step uses them: {names}"
            )
        if self._settings.loss is not None and loss_for(self._network) is not l1_loss:
            notes.append(
                f"`loss` is {self._settings.loss!r}, in place of this network's own, which also teaches its encoder by "
                "contrast. Say nothing of `loss` (nor by a recipe) for that."
            )
        if lacking := parts_without(self._network, self._settings):
            notes.append(f"`rates` has {', '.join(lacking)}, which this {type(self._network).__name__} does not have.")
        if self.classify:
            notes.append(
                f"Telling the degradation from the GIV is taught beside, with weight {self.classify}; "
                "`classify` at 0 leaves it out."
            )
        return notes

    def tune(self, tuning: RunTuning, batch: Batch) -> tuple[list[str], Tuning | None]:
        """Choose kernels for micro-batches like this one, where that was not done yet. All processes call it.

        Returns what to say of it, and what to write, if anything; in the main process.
        """
        if tuning.is_done(batch["degraded"].shape):
            return [], None
        assert isinstance(self._network, HairModel)
        return tuning.measure(self._network, self._images(batch)[0])

    def learned_weights(self, names: Sequence[str]) -> str | None:
        """The weights that the losses of degradations have now, in words; None where they are not learned.

        Args:
            names: of the degradations, by their numbers. All processes call it.
        """
        if self._parts.log_scales is None:
            return None
        weights = torch.exp(-whole(self._parts.log_scales)).tolist()
        listed = (f"{name} {weight:.3g}" for name, weight in zip(names, weights, strict=True))
        return f"Learned weights of the losses: {', '.join(listed)}"

    def _adamw(self) -> torch.optim.Optimizer:
        named = beside(self._parts)
        lists = ([*named.get(part, {}).values()] for part in ("classifier", "uncertainty"))
        return adamw(self._network, self._settings, *lists)

    def _weight_of_classifying(self, loss: Loss, example: Batch, classes: int) -> float:
        """The weight in the settings; where it is left open, 0.1 beside hairify's own losses for a DAC of moments."""
        weight = self._settings.classify
        if weight is None:
            by_moments = type(getattr(self._network, "dac", None)) is MomentsDAC
            weight = _CLASSIFY if by_moments and is_own(loss, self._network) else 0.0
        if not weight:
            return 0.0
        why_not = why_not_classify(self._network, loss, *self._images(example), classes)
        if why_not and self._settings.classify is None:
            return 0.0
        if why_not:
            raise OptionError(f"`classify` is {weight}, but {why_not}")
        return weight

    def _agree_on(self, module: nn.Module) -> None:
        """Give all processes the main one's values, which FSDP, other than DDP, does not do by itself."""
        if self._accelerator.num_processes > 1:
            for tensor in module.state_dict().values():
                tensor.copy_(broadcast(tensor))

    def gradients(self, batches: Sequence[Batch], asked: Callable[[], bool]) -> Gradients:
        """Sum up the gradients of one step.

        Args:
            batches: this process's micro-batches.
            asked: whether this process was asked to end.
        """
        with telling_of_the_compiler(self._settings.compile):
            added = [self._add_gradients(batch, last=batch is batches[-1]) for batch in batches]
        rows = torch.cat([rows for rows, _ in added])
        self._leave_out_unused([used for _, used in added if used is not None])
        rows = self._accelerator.gather(torch.cat([rows, torch.full_like(rows[:, :1], asked())], dim=1)).cpu()
        norm = self._clipped()
        return Gradients(rows[:, 0].double(), rows[:, 1].int().tolist(), float(whole(norm)), bool(rows[:, 2].any()))

    def _clipped(self) -> Tensor:
        """The norm of all gradients together, which are then clipped, if they are to be."""
        if self._plain and self._settings.clip_norm is None:  # else all would be multiplied by 1
            parameters = self._parts.parameters()
            return nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
        most = self._settings.clip_norm or math.inf
        norm: Tensor = self._accelerator.clip_grad_norm_(self._objective.parameters(), most)
        return norm

    def _leave_out_unused(self, used: Sequence[Tensor]) -> None:
        """Take the gradients of zero from the parameters that no process used, of those of the micro-batches."""
        if not used:
            return
        somewhere = self._accelerator.gather(torch.stack([*used])).any(0).tolist()
        trained = [parameter for parameter in self._parts.parameters() if parameter.requires_grad]
        for parameter, is_used in zip(trained, somewhere, strict=True):
            # Not zero: a checkpoint of a kind that hides from the graph what it uses.
            if not is_used and parameter.grad is not None and not whole(parameter.grad).any():
                parameter.grad = None

    def _add_gradients(self, batch: Batch, *, last: bool) -> tuple[Tensor, Tensor | None]:
        """Those of a micro-batch, exchanged between processes after the last.

        Returns losses and tasks (B, 2), and of a sharded network, which parameters it used.
        """
        with contextlib.nullcontext() if last else self._accelerator.no_sync(self._objective):
            with self._accelerator.autocast():
                labels = self._degradations[batch["task"]].to(self._accelerator.device)
                objective, losses, used = self._objective(*self._images(batch), labels)
            self._accelerator.backward(objective.mean() / self._settings.accumulation)
        return torch.stack([losses.detach().float(), batch["task"].to(losses)], dim=1), used

    def update(self, step: int, rate: float) -> None:
        """Change the weights, at this learning rate, by the gradients of a step."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group[RELATIVE_RATE]
        optimizer = self._optimizer.optimizer if self._plain else self._optimizer
        optimizer.step()
        optimizer.zero_grad()
        self.skipped = self.skipped + 1 if self._accelerator.optimizer_step_was_skipped else 0
        if self._average is not None and not self.skipped:
            self._average.update(step)

    def give_to(self, model: nn.Module) -> None:
        """Load the averaged weights into a network like the one learning. All processes call it."""
        state = self._state()
        averages = self._average.tensors() if self._average is not None else {}
        names = {id(parameter): name for name, parameter in self._network.named_parameters()}
        for name, parameter in self._network.named_parameters(remove_duplicate=False):  # tied ones have several names
            if names[id(parameter)] in averages:
                state[name] = averages[names[id(parameter)]]
        model.load_state_dict(state)
        model.to(self._accelerator.device).eval()

    def tensors(self) -> dict[str, Tensor]:
        """All that it has learned, on the CPU: `model.*`, `optimizer.*`, `average.*`. All processes call it."""
        parts = {"model": self._state(), "optimizer": state_tensors(self._optimizer, self._parts)}
        for part, named in beside(self._parts).items():
            parts[part] = {name: whole(parameter) for name, parameter in named.items()}
        if self._average is not None:
            parts["average"] = self._average.tensors()
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def scaler(self) -> dict[str, Any]:
        """State of the gradient scaler that fp16 needs; else nothing."""
        scaler = self._accelerator.scaler
        return {} if scaler is None else scaler.state_dict()

    def go_on(
        self,
        optimizer: Mapping[str, Tensor],
        average: Mapping[str, Tensor],
        trained_beside: Mapping[str, Mapping[str, Tensor]],
        scaler: Mapping[str, Any],
    ) -> None:
        """Take over the state of optimizer, average, what is trained beside the network, and gradient scaler.

        Args:
            optimizer: its state tensors.
            average: of the weights.
            trained_beside: "classifier" of degradations and "uncertainty", of each its tensors, if any.
            scaler: its state.

        Raises:
            TrainingError: there was a classifier and is none now, or the other way round.
        """
        classifier = bool(trained_beside["classifier"])
        if classifier != bool(self.classify):
            raise TrainingError(
                f"The run was {'' if classifier else 'not '}taught to tell degradations from the GIV, and would "
                f"{'not ' if classifier else ''}be now. Resume it with the network, data and loss it was begun with."
            )
        load_state_tensors(self._optimizer, self._parts, optimizer)
        with torch.no_grad():
            for part, named in beside(self._parts).items():
                for name, parameter in named.items():
                    parameter.copy_(like(parameter, trained_beside[part][name]))
        if self._average is not None:
            self._average.load(average)
        if self._accelerator.scaler is not None and scaler:  # there was none before, with another precision
            self._accelerator.scaler.load_state_dict(dict(scaler))

    def _state(self) -> dict[str, Tensor]:
        return {name: whole(tensor) for name, tensor in self._network.state_dict().items()}

    def _images(self, batch: Batch) -> tuple[Tensor, Tensor]:
        degraded, clean = (batch[name].to(self._like, non_blocking=True) for name in ("degraded", "clean"))
        return (channels_together(degraded), clean) if self._settings.channels_last else (degraded, clean)


def _settled_output(network: nn.Module, degraded: Tensor) -> tuple[int, int]:
    """As `settle_output` has it, where the network can be run on images alone; a loss may give it more."""
    try:
        return settle_output(network, degraded)
    except Exception as error:  # networks fail in every possible way
        pass_on_lack_of_memory(error)
        return 0, 1


_NOTHING_ADDED = (
    "They work behind the split: let the network return the restored image alone, or convert what makes it "
    "(`split_at`, `include`)."
)


def _idle(network: nn.Module, loss: Loss, degraded: Tensor, clean: Tensor) -> list[str]:
    """The parameters that a trial does not reach, where it reaches what is to be trained.

    Raises:
        TrainingError: it reaches nothing; or of a network with a GIV, nothing that makes it depend on that.
    """
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    added = (added_parameters(network) or set()) & trainable
    found = reached(network, loss, degraded, clean, added or trainable)
    if not found:
        raise TrainingError(
            "There is nothing to train: the loss reaches no parameter of the network that requires gradients."
        )
    if added and not found & added:
        assert isinstance(network, (HairModel, ConditionalEmbedding))
        raise TrainingError(
            "Nothing that was added to the network would learn: the loss reaches its "
            f"{len(added)} parameters (such as {min(added)!r}) in no trial. {_NOTHING_ADDED}"
        )
    return [name for name, _ in network.named_parameters() if name in trainable - found]


def _prepared(model: nn.Module, settings: TrainingSettings) -> nn.Module:
    """A copy in training mode, with what the settings say of its base and blocks."""
    network = copy_model(model).train()
    of_converted = [name for name in ("freeze_base", "checkpoint_blocks", "tune") if getattr(settings, name)]
    if of_converted and not isinstance(network, HairModel):
        name = of_converted[0]
        raise OptionError(
            f"`{name}` is for networks converted by hairify; this {type(network).__name__} is not. Convert it, or "
            f"leave `{name}` off."
        )
    if isinstance(network, HairModel):
        if settings.freeze_base:
            for parameter in network.base_parameters():
                parameter.requires_grad_(False)
        if settings.checkpoint_blocks:
            network.checkpoint_blocks()
    freeze(network, settings.freeze)
    if foreign := [name for name, value in network.state_dict().items() if not isinstance(value, Tensor)]:
        raise TrainingError(f"The network's state holds {foreign[0]!r}, no tensor, which checkpoints cannot keep.")
    return network


def _load(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    if any(key.startswith("standardization.") for key in network.state_dict().keys() - weights.keys()):
        raise TrainingError(
            "The checkpoint is of a converted network of hairify 0.1, whose runs do not go on in this version. End the "
            "run with that one, or begin another from its model: `load` reads what it saved."
        )
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise TrainingError(
            f"The checkpoint is of another network than this {type(network).__name__}. Resume with the network that "
            f"the run was begun with. ({error})"
        ) from error
