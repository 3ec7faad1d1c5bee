"""Samples on their way from the processes that load them, what goes wrong there, and those for calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.utils.data import Dataset

from hairify.data.samples import Batch, Sample, TrainingSamples, collate
from hairify.errors import CalibrationError, DataError
from hairify.model import HairModel
from hairify.networks._embedding import ConditionalEmbedding
from hairify.training._progression import Stage

Draw: TypeAlias = tuple[int, int | None]
"""Which sample, and the side of its patch; None for that of the samples."""


class Reporting(Dataset[Any]):
    """Samples, or why one cannot be had: an error raised in a worker would arrive as the text of its traceback."""

    def __init__(self, samples: TrainingSamples) -> None:
        self.samples = samples

    def __getitem__(self, draw: Draw) -> Sample | DataError:
        try:
            return drawn(self.samples, draw)
        except DataError as error:
            return error


def drawn(samples: TrainingSamples, draw: Draw) -> Sample:
    """One sample.

    Raises:
        DataError: it cannot be had.
    """
    index, patch_size = draw
    return samples[index] if patch_size is None else samples.sized(index, patch_size)


def examples(samples: TrainingSamples, stages: Sequence[Stage]) -> list[Batch]:
    """The first two samples, in each of the sizes in which a run takes them.

    Raises:
        DataError: they cannot be had.
    """
    sizes = dict.fromkeys(stage.patch_size for stage in stages)
    return [collate([drawn(samples, (index, size)) for index in range(2)]) for size in sizes]


def collate_or_error(samples: Sequence[Sample | DataError]) -> Batch | DataError:
    """A batch of samples; where one could not be had, why."""
    errors = [sample for sample in samples if isinstance(sample, DataError)]
    return errors[0] if errors else collate([sample for sample in samples if not isinstance(sample, DataError)])


def calibration_images(model: nn.Module, samples: TrainingSamples, count: int, notes: list[str]) -> Tensor | None:
    """Degraded patches, the same in all processes, where a network is to be calibrated and can be.

    Args:
        model: the network.
        samples: the first ones are taken.
        count: of patches; 0 where it is not to be calibrated.
        notes: gets why it cannot be.
    """
    if not count or not isinstance(model, (HairModel, ConditionalEmbedding)) or model.is_calibrated:
        return None
    try:
        model.check_calibration()
    except CalibrationError as error:
        notes.append(f"The network is trained as it is, without calibration. {error}")
        return None
    return collate([samples[i] for i in range(count)])["degraded"]
