"""Kernels that were found the quickest by measurement, and the file that keeps them.

As with `torch.backends.cudnn.benchmark`, results are the same up to rounding whatever is chosen.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from hairify._support.files import write_text
from hairify._support.processor import processor
from hairify.errors import TuningError
from hairify.functional._kernels import Case, Choice, Kernel, computing, has_triton
from hairify.functional._operations import Convolution, Linear, Operation

_VERSION = 1


@dataclass(frozen=True)
class Measured:
    """What was measured for one case.

    Attributes:
        choice: the kernels taken.
        by_rule: the kernel that is taken without measurement.
        forward: milliseconds by kernel, of those that ran.
        backward: the same of the gradients.
    """

    choice: Choice
    by_rule: Kernel
    forward: Mapping[Kernel, float]
    backward: Mapping[Kernel, float]

    @property
    def differs(self) -> bool:
        """Whether it is computed otherwise than by the rules."""
        return set(self.choice) != {self.by_rule}


@dataclass(frozen=True)
class Tuning:
    """The quickest kernels for some cases, on one kind of device with one release of PyTorch.

    `HairModel.tune` makes it; `print` shows it.

    Attributes:
        device: name of the device.
        release: of PyTorch.
        threads: of the CPU; 0 for other devices.
        measured: what was measured, by case.
    """

    device: str
    release: str
    threads: int
    measured: Mapping[Case, Measured] = field(default_factory=dict)

    @classmethod
    def of_device(cls, device: torch.device, measured: Mapping[Case, Measured]) -> Tuning:
        """What was measured on this device, with as many threads as there are now.

        Args:
            device: the device.
            measured: by case.
        """
        return cls(*_key(device), measured)

    def choice(self, case: Case) -> Choice | None:
        """The kernels for a case; None where it was not measured."""
        found = self.measured.get(case)
        return None if found is None else found.choice

    def fits(self, device: torch.device) -> bool:
        """Whether it was measured on such a device, with this PyTorch and as many threads, and can be gone by."""
        return (self.device, self.release, self.threads) == _key(device) and not self.lacks_triton

    @property
    def lacks_triton(self) -> bool:
        """Whether Triton's kernels were chosen, and there is none here."""
        return self._chooses_triton and not has_triton()

    @functools.cached_property
    def _chooses_triton(self) -> bool:
        return any("triton" in measured.choice for measured in self.measured.values())

    @property
    def differing(self) -> int:
        """For how many cases other kernels were chosen than by the rules."""
        return sum(m.differs for m in self.measured.values())

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Tuning:
        """Read what `save` wrote.

        Raises:
            TuningError: the file is no tuning, damaged, or of a newer version.
            OSError: it cannot be read.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise TuningError(f"{path}: It holds no tuning: it is no text. `hair.tune(images)` makes one.") from error
        except TuningError as error:
            raise TuningError(f"{path}: {error}") from error.__cause__

    def to_json(self) -> str:
        """It as text."""
        cases = [
            {**_plain_case(case), **asdict(measured), "choice": measured.choice._asdict()}
            for case, measured in self.measured.items()
        ]
        head = {"version": _VERSION, "device": self.device, "torch": self.release, "threads": self.threads}
        return json.dumps({**head, "cases": cases}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Tuning:
        """What `to_json` made.

        Raises:
            TuningError: the text is no tuning, damaged, or of a newer version.
        """
        version: Any = None
        try:
            data = json.loads(text)
            version = data["version"]
            if version == _VERSION:
                read = [_case(one) for one in data["cases"]]
                return cls(str(data["device"]), str(data["torch"]), int(data["threads"]), dict(read))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TuningError(
                f"It holds no tuning ({type(error).__name__}: {error}). `hair.tune(images)` makes one."
            ) from error
        raise TuningError(
            f"It is of version {version!r}, and this hairify reads version {_VERSION}. Install a newer hairify, or "
            "measure anew by `hair.tune(images)`."
        )

    def __str__(self) -> str:
        threads = f", {self.threads} thread(s)" if self.threads else ""
        lines = [
            f"Tuning on {self.device}{threads}, PyTorch {self.release}: {self.differing} of {len(self.measured)} cases "
            "differ from the rules"
        ]
        for case, measured in self.measured.items():
            by_rule = f"; by rule {measured.by_rule}" if measured.differs else ""
            times = [
                f"{name} {kernel} ({_milliseconds(kernel, by_kernel)})"
                for name, kernel, by_kernel in (
                    ("forward", measured.choice.forward, measured.forward),
                    ("backward", measured.choice.backward, measured.backward),
                )
            ]
            lines.append(f"  {_describe(case)}: {', '.join(times)}{by_rule}")
        return "\n".join(lines)


def _milliseconds(chosen: Kernel, times: Mapping[Kernel, float]) -> str:
    others = [f"{kernel} {time:.3g}" for kernel, time in times.items() if kernel != chosen]
    return "; ".join([f"{times[chosen]:.3g} ms", *others])


def _describe(case: Case) -> str:
    operation = "linear"
    if isinstance(case.operation, Convolution):
        size = "×".join(map(str, case.operation.kernel))
        parts = ["transposed"] * case.operation.transposed + [f"{case.operation.groups} groups"] * (
            case.operation.groups > 1
        )
        operation = " ".join([size, "convolution", *([f"({', '.join(parts)})"] if parts else [])])
    layout = ", channels last" if case.channels_last else ""
    dtype = str(case.dtype).removeprefix("torch.")
    return f"{operation}, {case.batch} weights {tuple(case.weight)}, input {tuple(case.input)}, {dtype}{layout}"


def _key(device: torch.device) -> tuple[str, str, int]:
    version = str(torch.__version__)  # else a pickle would hold a class of PyTorch's own
    if device.type == "cpu":
        return processor(), version, torch.get_num_threads()
    return _gpu(device) if device.type == "cuda" else device.type, version, 0


@functools.cache
def _gpu(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


def _plain_case(case: Case) -> dict[str, Any]:
    """A case as JSON has it."""
    is_convolution = isinstance(case.operation, Convolution)
    return {
        **case._asdict(),
        "operation": asdict(case.operation) if is_convolution else "linear",
        "dtype": str(case.dtype).removeprefix("torch."),
    }


def _case(data: Mapping[str, Any]) -> tuple[Case, Measured]:
    """A case and what was measured, out of JSON; a choice that would not compute it is no choice."""
    input, weight = (torch.Size(data[name]) for name in ("input", "weight"))
    dtype = getattr(torch, data["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{data['dtype']!r} is no dtype")
    operation = _operation(data["operation"])
    batch, device, channels_last = int(data["batch"]), str(data["device"]), bool(data["channels_last"])
    case = Case(operation, batch, input, weight, dtype, device, channels_last)
    choice = Choice(data["choice"]["forward"], data["choice"]["backward"])
    times = {name: _times(data[name]) for name in ("forward", "backward")}
    known = set(computing(case))
    named = {data["by_rule"], *choice, *times["forward"], *times["backward"]}
    if not named <= known or case.batch < 2:
        raise ValueError(f"{sorted(named - known)} cannot compute {case.batch} weights of {operation}")
    if choice.forward not in times["forward"] or choice.backward not in times["backward"]:
        raise ValueError(f"{choice} was not measured")
    return case, Measured(choice, data["by_rule"], **times)


def _operation(data: Any) -> Operation:
    if data == "linear":
        return Linear()
    settings: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in data.items()}
    return Convolution(**settings)


def _times(data: Mapping[str, Any]) -> dict[Any, float]:
    times = {name: float(time) for name, time in data.items()}
    if not all(math.isfinite(time) for time in times.values()):
        raise ValueError("a time is not finite")
    return times
