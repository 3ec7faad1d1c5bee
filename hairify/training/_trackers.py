"""Experiment trackers: TensorBoard, Weights & Biases, MLflow and others, as accelerate knows them."""

from __future__ import annotations

import difflib
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import (  # type: ignore[import-untyped]
    LOGGER_TYPE_TO_CLASS,
    GeneralTracker,
    TensorBoardTracker,
    get_available_trackers,
)

from hairify.errors import OptionError, TrainingError
from hairify.networks._named import find_object

NONE = "none"
"""In place of trackers: there are none."""

_PROJECT = "hairify"
_LOCAL = "tensorboard"  # it only writes files in the run's folder
_PACKAGES = {"comet_ml": "comet-ml"}  # whose names are not those of the trackers


_TOLD_EVERY = 2.0  # seconds; to wait for the disk takes longer than to write down the numbers of a step


class _TensorBoard(TensorBoardTracker):  # type: ignore[misc]
    """accelerate's, which does not wait for the disk at every step."""

    _told = 0.0

    def log(self, values: Mapping[str, float], step: int | None = None, **kwargs: Any) -> None:
        """Write down numbers of a step; they are on the disk after some seconds, and when it ends."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, global_step=step)
        if (now := time.monotonic()) - self._told > _TOLD_EVERY:
            self._told = now
            self.writer.flush()


class Trackers:
    """Those of one run, in its main process. One that fails on the way is left out, and said; the run goes on.

    Args:
        names: as `TrainingSettings.log_with` has them.
        folder: the run's.
        step: after which the run starts.
        config: what they show of the run's settings.
        note: says something to the user.

    Raises:
        OptionError: see `trackers_named`.
        TrainingError: one does not start.
        OSError: TensorBoard's files cannot be written.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, step: int, config: Mapping[str, Any], note: Callable[[str], None]
    ) -> None:
        self._note = note
        self._running: dict[str, Any] = {}
        plain = {key: one if isinstance(one, (bool, int, float, str)) else str(one) for key, one in config.items()}
        for name, cls in trackers_named(names).items():
            try:
                self._running[name] = _started(name, cls, folder, step, plain)
            except Exception as error:  # they raise whatever their services stumble over
                if name == _LOCAL:
                    raise
                self.close()
                raise TrainingError(
                    f"`log_with` has {name!r}, which does not start: {type(error).__name__}: {error}. See to it that "
                    "its service can be reached and that you are logged in, or leave it out."
                ) from error

    def show(self, step: int, scalars: Mapping[str, float]) -> None:
        """Give them numbers of a step.

        Raises:
            OSError: TensorBoard's files cannot be written.
        """
        self._each(f"does not take the numbers of step {step}", lambda one: one.log(dict(scalars), step=step))

    def close(self) -> None:
        """Nothing more comes."""
        self._each("does not end well", lambda one: one.finish())
        self._running.clear()

    def _each(self, failing: str, do: Callable[[Any], None]) -> None:
        for name, tracker in [*self._running.items()]:
            try:
                do(tracker)
            except Exception as error:
                if name == _LOCAL:
                    raise
                del self._running[name]
                self._note(f"{name} {failing}, and gets no more: {type(error).__name__}: {error}")


def trackers_named(names: Sequence[str]) -> dict[str, Any]:
    """The classes of trackers, by name; those of accelerate, or "package.module:Tracker" for one's own.

    Raises:
        OptionError: one is not known, or what it needs is not installed.
        NetworkError: one's own cannot be found.
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(names):
        if name == NONE and len(names) > 1:
            raise OptionError(f"`log_with` is {', '.join(names)}; {NONE!r} excludes all others.")
        if ":" in name:
            found[name] = find_object(name)
            if not (isinstance(found[name], type) and issubclass(found[name], GeneralTracker)):
                raise OptionError(f"`log_with` has {name!r}; needed is a subclass of accelerate's GeneralTracker.")
        elif name not in (*LOGGER_TYPE_TO_CLASS, NONE):
            near = difflib.get_close_matches(name, LOGGER_TYPE_TO_CLASS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionError(
                f"`log_with` has {name!r}, which is no tracker.{hint} Accepted are {', '.join(LOGGER_TYPE_TO_CLASS)}, "
                f"package.module:Tracker for a subclass of accelerate's GeneralTracker, and {NONE}."
            )
        elif name != NONE:
            if name not in map(str, get_available_trackers()):
                raise OptionError(
                    f"`log_with` has {name!r}, which is not installed: pip install {_PACKAGES.get(name, name)}. Or "
                    f"leave it out ({NONE!r}: no tracker)."
                )
            found[name] = _TensorBoard if name == _LOCAL else LOGGER_TYPE_TO_CLASS[name]
    return found


def _started(name: str, cls: Any, folder: Path, step: int, config: Mapping[str, Any]) -> Any:
    """A tracker of a run that starts after this step."""
    project = name if name == _LOCAL else _PROJECT  # TensorBoard's is a folder in that of the run
    where = [str(folder)] if cls.requires_logging_directory else []
    tracker = cls(project, *where, **_options(name, folder, step))
    tracker.start()
    if name != _LOCAL:  # which would show it as one more run
        tracker.store_init_configuration(dict(config))
    return tracker


def _options(name: str, folder: Path, step: int) -> dict[str, Any]:
    """What a tracker is told of its run, beside the project."""
    called = folder.absolute().name
    if name == _LOCAL:
        return {"purge_step": step + 1}  # what is there of later steps
    if name == "wandb":  # the same run again after a resumption
        identity = hashlib.blake2b(os.fsencode(folder.absolute()), digest_size=8).hexdigest()
        return {"name": called, "id": identity, "resume": "allow", "dir": str(folder)}
    if name == "mlflow":
        return {"run_name": called}
    return {"name": called} if name == "trackio" else {}
