"""Checkpoints of a run: one safetensors file each, with JSON in its metadata. Nothing is pickled."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from hairify.errors import TrainingError
from hairify.training._folders import CHECKPOINTS

FORMAT_VERSION = 1
_KEY = "hairify-training"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class About:
    """What a checkpoint says in its metadata.

    Attributes:
        step: steps taken.
        seconds: time that they took.
        agreed: by name, what must be the same when the run goes on.
        scaler: state of the gradient scaler, where there is one.
    """

    step: int
    seconds: float
    agreed: Mapping[str, Any]
    scaler: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped.

    Attributes:
        about: what it says of itself.
        tensors: on the CPU, named `model.*`, `average.*`, `optimizer.*` and `losses`.
    """

    about: About
    tensors: Mapping[str, Tensor]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors under `name`, by the rest of their names."""
        prefix = f"{name}."
        return {key[len(prefix) :]: tensor for key, tensor in self.tensors.items() if key.startswith(prefix)}


class Checkpoints:
    """The checkpoints of one run, named by their steps.

    Args:
        folder: where they are.
        keep: how many of the newest are kept.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def paths(self) -> list[Path]:
        """From the oldest to the newest, whether they can be read or not."""
        return sorted(path for path in self.folder.glob(f"*{_SUFFIX}") if path.stem.isdigit())

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write one, which appears under its name only when it is complete, and remove those that are too old.

        Raises:
            OSError, safetensors.SafetensorError: it cannot be written; nothing of it is left, and no other is lost.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(checkpoint.about.step)
        unfinished = self.folder / ".unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
        unfinished.mkdir()
        try:
            temporary = unfinished / path.name
            temporary.touch()
            mode = temporary.stat().st_mode  # safetensors lets nobody but the owner read what it writes
            about = json.dumps({"version": FORMAT_VERSION, **asdict(checkpoint.about)})
            safetensors.torch.save_file(dict(checkpoint.tensors), temporary, {_KEY: about})
            temporary.chmod(mode)
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        # One of a later step is damaged: the run could not go on from it, and will write it again.
        for old in [other for other in self.paths() if other <= path][: -self._keep]:
            old.unlink()
        return path

    def newest(self) -> tuple[Checkpoint, list[str]]:
        """The newest that can be read, and why those after it cannot.

        Raises:
            TrainingError: there is none.
        """
        damaged: list[str] = []
        for path in reversed(self.paths()):
            try:
                return read(path), damaged
            except TrainingError as error:
                damaged.append(str(error))
        raise TrainingError(
            f"{self.folder} holds no checkpoint that can be read, so there is no run to resume. "
            f"{' '.join([*damaged, ''])}Start it without `resume`, or name the output folder of the run that is meant."
        )

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.folder / f"{step:08d}{_SUFFIX}"


def read(path: Path) -> Checkpoint:
    """Read one file.

    Raises:
        TrainingError: it is damaged, no checkpoint of a run, or of a newer hairify.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_KEY])
            version = about.pop("version")
            if version > FORMAT_VERSION:
                raise TrainingError(
                    f"{path} has version {version}; this hairify reads up to {FORMAT_VERSION}. Install a newer hairify."
                )
            return Checkpoint(About(**about), {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{path} is damaged, or no checkpoint of a training run ({type(error).__name__}: {error})."
        ) from error


def is_begun(output: Path) -> bool:
    """Whether a folder holds a run that can be resumed."""
    return bool(Checkpoints(output / CHECKPOINTS, keep=1).paths())


def refuse_other_runs(output: Path) -> None:
    """Make sure that a folder is free for a new run.

    Raises:
        TrainingError: the folder holds checkpoints.
    """
    if paths := Checkpoints(output / CHECKPOINTS, keep=1).paths():
        raise TrainingError(
            f"{output} holds a run already ({paths[-1].name}). Go on with it by `resume`, or give another `output`."
        )
