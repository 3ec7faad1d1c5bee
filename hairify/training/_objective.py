"""What a step brings down: a loss of the network's output, and beside it, of telling the degradation from its GIV."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hairify.errors import TrainingError
from hairify.model import HairModel
from hairify.networks._embedding import ConditionalEmbedding
from hairify.networks._outputs import depends_on
from hairify.training._losses import Loss
from hairify.training._reachability import teaches_giv


class Objective(nn.Module):
    """A network with its loss: what processes call, so that the loss may use the network in whatever way.

    Args:
        network: the network.
        loss: of its output.
        classify: weight of a second loss, by which a linear classifier, trained beside a network with a GIV, tells the
            degradation from the GIV of its first run on a step's images; 0: none.
        classes: number of degradations.
        uncertainty: weigh the losses by uncertainties that are learned. An error whose absolute values have the mean b
            has, under Laplace's distribution, the negative log-likelihood |error| / b + log b. So the loss of a
            degradation becomes loss · exp(-s) + s, with its own s = log b; 0 at first. As Kendall et al., "Multi-Task
            Learning Using Uncertainty to Weigh Losses", CVPR 2018, for several degradations.
        sharded: give every parameter a gradient, zero where a step does not use it: FSDP sums those that processes
            have in their order, which must be the same in all.
    """

    def __init__(
        self, network: nn.Module, loss: Loss, classify: float, classes: int, *, sharded: bool, uncertainty: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.classify = classify
        self.sharded = sharded
        self.classifier: nn.Linear | None = None
        self.log_scales = nn.Parameter(torch.zeros(classes)) if uncertainty else None
        self._giv: Tensor | None = None
        if classify:
            assert isinstance(network, (HairModel, ConditionalEmbedding))
            self.classifier = nn.Linear(len(network.standardization.mean), classes)
            network.standardization.register_forward_hook(self._see)

    def _see(self, module: nn.Module, args: Any, giv: Tensor) -> None:
        if self._giv is None:
            self._giv = giv

    def forward(self, degraded: Tensor, clean: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What is brought down, and the loss alone, both (B,), of images (B, 3, H, W) in [0, 1].

        The third, of a sharded network, is which of its trainable parameters these depend on.

        Args:
            degraded: the network's input.
            clean: what it should return.
            labels: the number of each image's degradation, for the classifier.
        """
        self._giv = None
        losses = self.loss(self.network, degraded, clean)
        if losses.shape != degraded.shape[:1]:
            raise TrainingError(
                f"The loss has shape {tuple(losses.shape)} for {len(degraded)} images; needed is one number for each, "
                f"({len(degraded)},). Take the mean over all dimensions but the first."
            )
        objective = losses
        if self.log_scales is not None:
            log_scales = self.log_scales[labels]
            objective = losses * torch.exp(-log_scales) + log_scales
        if self.classifier is not None:
            giv, self._giv = self._giv, None
            assert giv is not None
            logits = self.classifier(giv.float())
            objective = objective + self.classify * nn.functional.cross_entropy(logits, labels, reduction="none")
        if not self.sharded:
            return objective, losses, None
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        used = torch.tensor(depends_on(objective, trained), device=objective.device)
        return objective + 0 * sum(p.real.sum() for p in trained), losses, used


def beside(objective: Objective) -> dict[str, dict[str, nn.Parameter]]:
    """What is trained beside the network: parameters by name, by the part of a checkpoint in which they are kept."""
    parts: dict[str, dict[str, nn.Parameter]] = {}
    if objective.classifier is not None:
        parts["classifier"] = dict(objective.classifier.named_parameters())
    if objective.log_scales is not None:
        parts["uncertainty"] = {"log_scales": objective.log_scales}
    return parts


def why_not_classify(network: nn.Module, loss: Loss, degraded: Tensor, clean: Tensor, classes: int) -> str | None:
    """Why a classifier of its GIV can teach a network nothing, and the way out; None where it can."""
    if not isinstance(network, (HairModel, ConditionalEmbedding)):
        return f"this {type(network).__name__} has no GIV. Convert it, or leave `classify` at 0."
    if classes < 2:
        return (
            "all training images show the same degradation, so there is nothing to tell apart. Leave `classify` at 0."
        )
    if not teaches_giv(network, loss, degraded, clean):
        return (
            "nothing that makes the GIV of a step's images is trained: what runs before the split is frozen, and so is "
            "the DAC or it has no parameters; or the loss runs the network under GIVs of its own, or on parts of the "
            "images. Leave `classify` at 0, or train what runs before the split."
        )
    return None
