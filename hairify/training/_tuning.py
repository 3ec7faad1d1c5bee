"""Kernels chosen by measurement for the batches of a run, and kept in its folder."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]
from torch import Tensor

from hairify.errors import TuningError
from hairify.functional import Tuning
from hairify.model import HairModel
from hairify.networks._running import number_of_inputs
from hairify.training._randomness import forked_random_state

TUNING = "tuning.json"
"""Its name in a run's folder."""


class RunTuning:
    """Measures at the first batch of each shape; what was measured before stays, so that a resumed run is exact.

    The main process measures for all: processes that measured at the same time on one machine would measure each other,
    and each would round in its own way. Those on other devices measure for themselves.

    Args:
        accelerator: processes, device and precision.
        path: the file in the run's folder.
        resume: take what is kept there, where it was measured on such a device.
    """

    def __init__(self, accelerator: Accelerator, path: Path, *, resume: bool) -> None:
        self.path = path
        self._accelerator = accelerator
        self._kept: Tuning | None = None
        self._shapes: set[torch.Size] = set()
        self._notes: list[str] = []
        if resume and accelerator.is_main_process:
            self._kept = self._read()

    def _read(self) -> Tuning | None:
        """What the folder has, if it can be used."""
        try:
            kept = Tuning.load(self.path)
        except FileNotFoundError:  # the run was begun without
            return None
        except (TuningError, OSError) as error:
            self._notes.append(f"Kernels are measured anew. {error}")
            return None
        if kept.fits(self._accelerator.device):
            return kept
        self._notes.append(
            f"Kernels are measured anew: {self.path} is of another device, PyTorch, or count of threads."
        )
        return None

    def is_done(self, shape: torch.Size) -> bool:
        """Whether kernels were chosen for batches of this shape."""
        return shape in self._shapes

    def measure(self, network: HairModel, degraded: Tensor) -> tuple[list[str], Tuning | None]:
        """Choose a network's kernels for batches like this one. All processes call it.

        Args:
            network: the one that learns.
            degraded: images of a micro-batch, as the network gets them.

        Returns:
            What to say of it, and what to write to `path`, if anything; in the main process.
        """
        self._shapes.add(degraded.shape)
        before, is_main = self._kept, self._accelerator.is_main_process
        if is_main:
            self._tune(network, degraded)
        if self._accelerator.num_processes > 1:
            self._follow(network, degraded)
        self._kept = network.tuning
        if not is_main or self._kept is None:
            return [], None
        notes, self._notes = self._notes, []
        is_new = self._kept != before
        return [*notes, _said(self._kept, is_new)], self._kept if is_new else None

    def _follow(self, network: HairModel, degraded: Tensor) -> None:
        """Take the main process's choices, where they were measured on such a device as this one's."""
        text = [network.tuning.to_json() if network.tuning is not None and self._accelerator.is_main_process else ""]
        broadcast_object_list(text)
        if self._accelerator.is_main_process:
            return
        of_main = Tuning.from_json(text[0])
        if of_main.fits(self._accelerator.device):
            network.use_tuning(of_main)
        else:
            self._tune(network, degraded)

    def _tune(self, network: HairModel, degraded: Tensor) -> None:
        network.use_tuning(self._kept)
        with forked_random_state(degraded.device), self._accelerator.autocast():
            network.tune(*[degraded] * number_of_inputs(network))


def _said(tuning: Tuning, is_new: bool) -> str:
    if not tuning.measured:
        return "There is nothing to `tune`: no layer with weights of its own for each image can choose among kernels."
    how = "measured" if is_new else "taken as they were measured before"
    return f"Kernels were {how}: in {tuning.differing} of {len(tuning.measured)} cases they are not those of the rules."
