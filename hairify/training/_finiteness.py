"""Steps whose loss or gradient is not finite, and the images that they learnt from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from hairify.training._learner import Gradients

_MOST_NAMED = 8


def mean_losses(gradients: Gradients, degradations: Sequence[str]) -> dict[str, float]:
    """The mean loss of each degradation in a step.

    Args:
        gradients: of the step.
        degradations: of each task.
    """
    by_degradation: dict[str, list[float]] = {}
    for loss, task in zip(gradients.losses.tolist(), gradients.tasks, strict=True):
        by_degradation.setdefault(degradations[task], []).append(loss)
    return {name: sum(losses) / len(losses) for name, losses in sorted(by_degradation.items())}


def not_finite(step: int, gradients: Gradients, means: Mapping[str, float], images: Sequence[str]) -> str:
    """What of a step is not finite, in words.

    Args:
        step: counted from 1.
        gradients: of the step.
        means: loss of each degradation.
        images: the file of each loss.
    """
    if wrong := [name for name, mean in means.items() if not math.isfinite(mean)]:
        losses = zip(images, gradients.losses.tolist(), strict=True)
        named = _named(image for image, loss in losses if not math.isfinite(loss))
        return f"loss of step {step} is not finite, on images with {', '.join(wrong)} ({named})"
    return f"gradient of step {step} is not finite, though the loss is; its images are {_named(images)}"


def _named(images: Iterable[str]) -> str:
    """Some images by name, each once."""
    names = list(dict.fromkeys(images))
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
