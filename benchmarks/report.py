"""Results as JSON and as Markdown tables."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.cases import Variant
from benchmarks.machine import Machine
from benchmarks.measure import Result
from benchmarks.targets import verdicts

_METHOD = """\
Every number is from one process. In each round the variants of a case run one after another, each round beginning with
another one, after a warm-up. Ratios are to the unconverted network (static) in the same round; given are their median
and, in brackets, quartiles. Times are medians for one call. A training step is forward, loss and backward, without an
optimizer. Peak memory is what a call takes beyond what was in use before, by the highest resident set on Linux and by
the allocator on CUDA, plus the parameters. Weights were random and images noise; converted as `hairify(network)` does
where no N is named.

- **hairified**: converted by `hairify(network)`.
- **tuned**: the same after `hair.tune(images)`: kernels chosen by measurement, not by the rules.
- **grouped**: the same model with one grouped convolution over the batch for every convolution, and all generated
  weights kept for the backward pass.
- **conditioned**: the same model within `conditioned_on` one GIV, after a first forward.
- **baked**: `hair.bake(image)`."""

_LAUNCHES = """\
Kernels that one call starts, and for which share of the call's time any of them runs: where that is far below 100%, the
call waits for Python and for the starts of kernels, not for the GPU. Counted in a further call, under PyTorch's
profiler."""

_ADDED = """\
The bound is the ratio of multiplications: N·P for making the weights of each block and image, and those of the DAC,
beside those of the network, as if all were equally quick. Making weights and the DAC were also timed by themselves;
given is their share of the hairified network's forward."""


def as_json(results: Sequence[Result], machine: Machine, conversion: dict[str, float]) -> dict[str, Any]:
    """All that was measured, round by round."""
    return {
        "machine": dataclasses.asdict(machine),
        "conversion_seconds": conversion,
        "targets": [dataclasses.asdict(verdict) | {"reached": verdict.is_reached} for verdict in verdicts(results)],
        "cases": [_case_as_json(result) for result in results],
    }


def _case_as_json(result: Result) -> dict[str, Any]:
    return {
        "name": result.case.name,
        "case": dataclasses.asdict(result.case),
        "skipped": result.skipped,
        "variants": {
            variant: {
                "seconds": times,
                "median_seconds": result.median(variant),
                "ratios": result.ratios(variant),
                "median_ratio": statistics.median(result.ratios(variant)),
                "peak_bytes": result.peak.get(variant),
                "held_bytes": result.held.get(variant),
                "memory_ratio": result.memory_ratio(variant),
                "launches": dataclasses.asdict(result.launches[variant]) if variant in result.launches else None,
            }
            for variant, times in result.seconds.items()
        },
        "tuning": result.tuning,
        "generation_seconds": result.generation,
        "classifier_seconds": result.classifier,
        "work": None if result.work is None else dataclasses.asdict(result.work),
        "lower_bound": None if result.work is None else result.work.lower_bound,
    }


def as_markdown(results: Sequence[Result], machine: Machine, conversion: dict[str, float]) -> str:
    """The targets, then all cases."""
    done = [result for result in results if result.skipped is None]
    parts = ["# Benchmark", str(machine), _METHOD]
    if any(result.case.device == "cpu" for result in done):  # they are for no GPU
        parts += ["## Targets", _targets(done)]
    parts += ["## Time", _by_variant(done, "ratio to static", _ratio)]
    parts += [_by_variant(done, "seconds", lambda result, variant: f"{result.median(variant):.4g}")]
    parts += ["## Peak memory", _by_variant(done, "ratio to static; MiB", _memory)]
    parts += ["## What conversion adds", _ADDED, _shares(done)]
    if any(result.launches for result in done):
        parts += ["## On the GPU", _LAUNCHES, _by_variant(done, "kernels; share of the time", _on_gpu)]
    if tuned := [result for result in done if result.tuning is not None]:
        parts += ["## What tuning chose", *(f"{r.case.name}\n\n```text\n{r.tuning}\n```" for r in tuned)]
    if conversion:
        rows = ([name, f"{seconds:.1f}"] for name, seconds in conversion.items())
        parts += ["## Conversion", "Seconds for `plan` and `hairify`.", table(["network", "seconds"], rows)]
    if skipped := [result for result in results if result.skipped is not None]:
        rows = ([result.case.name, str(result.skipped)] for result in skipped)
        parts += ["## Not measured", table(["case", "why"], rows)]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    """A Markdown table, all but the first column to the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _targets(results: Sequence[Result]) -> str:
    rows = (
        [
            v.case,
            v.quantity,
            f"≤ {v.limit:.2f}",
            f"{v.value:.3f}",
            "✓" if v.is_reached else "✗",
        ]
        for v in verdicts(results)
    )
    return table(["case", "what", "asked", "reached", ""], rows)


def _by_variant(results: Sequence[Result], what: str, cell: Callable[[Result, Variant], str]) -> str:
    variants = list(dict.fromkeys(variant for result in results for variant in result.seconds))
    rows = (
        [result.case.name, *(cell(result, v) if v in result.seconds else "" for v in variants)] for result in results
    )
    return table([what, *variants], rows)


def _ratio(result: Result, variant: Variant) -> str:
    ratios = result.ratios(variant)
    if variant == "static":
        return "1"
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.3f} ({low:.2f} to {high:.2f})"


def _memory(result: Result, variant: Variant) -> str:
    peak, ratio = result.peak.get(variant), result.memory_ratio(variant)
    if peak is None or ratio is None:
        return ""
    return f"{ratio:.3f}; {(peak + result.held[variant]) / 2**20:,.0f}"


def _on_gpu(result: Result, variant: Variant) -> str:
    if variant not in result.launches:
        return ""
    launches = result.launches[variant]
    return f"{launches.kernels}; {_percent(launches.busy, result.median(variant))}"


def _shares(results: Sequence[Result]) -> str:
    head = ["case", "hairified, ratio", "bound", "weights, of work", "DAC, of work", "weights, of time", "DAC, of time"]
    rows = []
    for result in results:
        work = result.work
        if work is None:
            continue
        row = [result.case.name, f"{statistics.median(result.ratios('hairified')):.3f}", f"{work.lower_bound:.3f}"]
        row += [_percent(part, work.total) for part in (work.generation, work.classifier)]
        if result.case.mode == "forward":  # they were timed without gradients
            row += [_percent(part, result.median("hairified")) for part in (result.generation, result.classifier)]
        rows.append(row + [""] * (len(head) - len(row)))
    return table(head, rows)


def _percent(part: float | None, whole: float) -> str:
    return "" if part is None else f"{100 * part / whole:.1f}%"
