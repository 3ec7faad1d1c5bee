"""Samples on their way from the processes that load them, and what goes wrong there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from hairify.data.samples import Batch, Sample, TrainingSamples, collate
from hairify.errors import DataError


class Reporting(Dataset[Any]):
    """Samples, or why one cannot be had: an error raised in a worker would arrive as the text of its traceback."""

    def __init__(self, samples: TrainingSamples) -> None:
        self.samples = samples

    def __getitem__(self, index: int) -> Sample | DataError:
        try:
            return self.samples[index]
        except DataError as error:
            return error


def collate_or_error(samples: Sequence[Sample | DataError]) -> Batch | DataError:
    """A batch of samples; where one could not be had, why."""
    errors = [sample for sample in samples if isinstance(sample, DataError)]
    return errors[0] if errors else collate([sample for sample in samples if not isinstance(sample, DataError)])
