"""Kernels chosen by measurement, where shapes do not tell: which is quickest, on this device, for each layer.

    a forward ── Recorder ──► cases ── tuned() ──► Tuning ── choice_for() ──► the kernels of later calls

As with `torch.backends.cudnn.benchmark`, results are the same up to rounding whatever is chosen.
"""

from __future__ import annotations

import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from hairify._support.files import write_text
from hairify.errors import TuningError
from hairify.functional._kernels import Case, Choice, Kernel, able, per_image, per_image_backward
from hairify.functional._operations import Convolution, Linear, Operation

_VERSION = 1
_ROUNDS = 5
_SECONDS_A_ROUND = 0.002

# Of two kernels, the one that takes so many times as long at first is not measured again.
_FAR = 2.5

# The kernel that rules name is left for another only where that is clearly quicker: measurements are noisy.
_CLEARLY = 0.95


@dataclass(frozen=True)
class Measured:
    """What was measured for one case.

    Attributes:
        choice: the kernels taken.
        by_rule: the kernel that is taken without measurement.
        forward: milliseconds by kernel.
        backward: milliseconds by kernel.
    """

    choice: Choice
    by_rule: Kernel
    forward: dict[Kernel, float]
    backward: dict[Kernel, float]


class Recorder:
    """Stands for a tuning while cases are gathered; leaves choices to the rules."""

    def __init__(self) -> None:
        self.cases: dict[Case, None] = {}

    def choice(self, case: Case) -> Choice | None:
        """None, for the rule."""
        self.cases[case] = None
        return None


@dataclass
class Tuning:
    """The quickest kernels for some cases, on one kind of device with one release of PyTorch.

    Attributes:
        device: name of the device.
        torch: release of PyTorch.
        threads: of the CPU; 0 for other devices.
        measured: what was measured, by case.
    """

    device: str
    torch: str
    threads: int
    measured: dict[Case, Measured] = field(default_factory=dict)

    def choice(self, case: Case) -> Choice | None:
        """The kernels for a case; None where it was not measured."""
        found = self.measured.get(case)
        return None if found is None else found.choice

    def fits(self, device: torch.device) -> bool:
        """Whether it was measured on such a device, with this PyTorch and as many threads."""
        return (self.device, self.torch, self.threads) == _key(device)

    def save(self, path: str | Path) -> None:
        """Write it as JSON.

        Raises:
            OSError: the file cannot be written.
        """
        cases = [{**_as_json(case), **asdict(m)} for case, m in self.measured.items()]
        head = {"version": _VERSION, "device": self.device, "torch": self.torch, "threads": self.threads}
        text = json.dumps({**head, "cases": cases}, indent=1) + "\n"
        write_text(Path(path), text)

    @classmethod
    def load(cls, path: str | Path) -> Tuning:
        """Read what `save` wrote.

        Raises:
            TuningError: the file is no tuning, or of a newer version.
            OSError: it cannot be read.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["version"] != _VERSION:
                raise TuningError(f"{path} is of version {data['version']}; this hairify reads version {_VERSION}.")
            made = cls(str(data["device"]), str(data["torch"]), int(data["threads"]))
            made.measured.update(map(_from_json, data["cases"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TuningError(
                f"{path} holds no tuning ({type(error).__name__}: {error}). `hair.tune(images)` makes one."
            ) from error
        return made

    def __str__(self) -> str:
        threads = f", {self.threads} threads" if self.threads else ""
        lines = [f"Tuning of {len(self.measured)} cases on {self.device}{threads}, PyTorch {self.torch}"]
        for case, m in self.measured.items():
            changed = "" if set(m.choice) == {m.by_rule} else f"  (by rule: {m.by_rule})"
            lines.append(f"  {_describe(case)}: {m.choice.forward}, backward {m.choice.backward}{changed}")
        return "\n".join(lines)


def tuned(cases: Iterable[Case], device: torch.device) -> Tuning:
    """Measure the kernels of each case on a device."""
    made = Tuning(*_key(device))
    for case in cases:
        kernels = able(case.operation)
        if case.batch > 1 and len(kernels) > 1:
            made.measured[case] = _measured(case, kernels, device)
    return made


def _measured(case: Case, kernels: Sequence[Kernel], device: torch.device) -> Measured:
    input, weight = _tensors(case, device)
    with torch.no_grad():
        grad = torch.randn_like(per_image(case.operation, input, weight, None, case.by_rule()))
        forward = {k: _forward(case, input, weight, k) for k in kernels}
        backward = {k: _backward(case, grad, input, weight, k) for k in kernels}
        times = [_times(calls, device) for calls in (forward, backward)]
    by_rule = case.by_rule()
    return Measured(Choice(*(_quickest(t, by_rule) for t in times)), by_rule, *times)


def _forward(case: Case, input: Tensor, weight: Tensor, kernel: Kernel) -> Callable[[], object]:
    return lambda: per_image(case.operation, input, weight, None, kernel)


def _backward(case: Case, grad: Tensor, input: Tensor, weight: Tensor, kernel: Kernel) -> Callable[[], object]:
    needed = (True, True, False)
    return lambda: per_image_backward(case.operation, grad, input, weight.to(input.dtype), needed, kernel)


def _tensors(case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
    input = torch.randn(case.input, dtype=case.input_dtype, device=device)
    if case.channels_last:
        input = input.contiguous(memory_format=torch.channels_last)
    return input, torch.randn((case.batch, *case.weight), dtype=case.dtype, device=device)


def _times(calls: dict[Kernel, Callable[[], object]], device: torch.device) -> dict[Kernel, float]:
    """Milliseconds of each call: medians of rounds in which they take turns, once of those that are far behind."""
    first = {}
    for kernel, call in calls.items():
        call()  # it may compile, or choose an algorithm
        first[kernel] = _timed(call, 1, device)
    near = [kernel for kernel in calls if first[kernel] <= _FAR * min(first.values())]
    times: dict[Kernel, list[float]] = {kernel: [] for kernel in near}
    for _, kernel in itertools.product(range(_ROUNDS), near):
        repeats = max(1, int(_SECONDS_A_ROUND / max(first[kernel], 1e-9)))
        times[kernel].append(_timed(calls[kernel], repeats, device))
    medians = {kernel: statistics.median(times[kernel]) if kernel in times else first[kernel] for kernel in calls}
    return {kernel: round(1000 * seconds, 4) for kernel, seconds in medians.items()}


def _timed(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _quickest(times: dict[Kernel, float], by_rule: Kernel) -> Kernel:
    best = min(times, key=lambda kernel: times[kernel])
    return best if times[best] < _CLEARLY * times.get(by_rule, float("inf")) else by_rule


def _key(device: torch.device) -> tuple[str, str, int]:
    if device.type == "cpu":
        return f"cpu ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})", torch.__version__, torch.get_num_threads()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name, torch.__version__, 0


def _describe(case: Case) -> str:
    layout = ", channels last" if case.channels_last else ""
    dtype = str(case.dtype).removeprefix("torch.")
    return f"{tuple(case.input)} by {case.batch} weights of {tuple(case.weight)}, {dtype}{layout}"


def _as_json(case: Case) -> dict[str, Any]:
    operation = {"linear": True} if isinstance(case.operation, Linear) else asdict(case.operation)
    dtypes = {"dtype": str(case.dtype).removeprefix("torch."), "input_dtype": str(case.input_dtype).removeprefix("torch.")}
    return {**case._asdict(), "operation": operation, **dtypes, "input": list(case.input), "weight": list(case.weight)}


def _from_json(data: dict[str, Any]) -> tuple[Case, Measured]:
    values = {name: data[name] for name in Case._fields}
    operation = values["operation"]
    made: Operation = Linear() if "linear" in operation else Convolution(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in operation.items()}
    )
    dtypes = {name: getattr(torch, values[name]) for name in ("dtype", "input_dtype")}
    sizes = {name: torch.Size(values[name]) for name in ("input", "weight")}
    choice = Choice(*data["choice"])
    if not {*choice, data["by_rule"]} <= set(get_args(Kernel)):
        raise ValueError(f"unknown kernels {list(choice)}")
    case = Case(**{**values, "operation": made, **dtypes, **sizes})
    return case, Measured(choice, data["by_rule"], data["forward"], data["backward"])
