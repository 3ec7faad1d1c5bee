"""`python -m benchmarks`: measure, and write JSON, Markdown and plots."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import machine, memory
from benchmarks.cases import Case, default_cases, full_cases, quick_cases, select
from benchmarks.measure import LEAST_ROUNDS, Effort, Result, measure
from benchmarks.plots import draw
from benchmarks.report import as_json, as_markdown
from benchmarks.variants import Pair, convert

QUICK = Effort(rounds=LEAST_ROUNDS, seconds=0.1, least=0.005)

# Of the machine's memory; what is expected to take more is left out, for the kernel would end the process.
_MOST_MEMORY = 0.8


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen cases; returns the exit status."""
    options = _parser().parse_args(arguments)
    choose = quick_cases if options.quick else full_cases if options.full else default_cases
    cases = select([case for case in choose(_devices()) if options.device in (None, case.device)], options.only)
    if not cases:
        print("No case matches; `--list` without `--only` names them all.", file=sys.stderr)
        return 1
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    if not memory.can_measure():
        print("Peak memory on CPU is left out: measuring it takes Linux with glibc.", file=sys.stderr)
    _run(cases, QUICK if options.quick else Effort(options.rounds, options.seconds), options.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time and memory of converted networks, beside the same networks unconverted.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--full", action="store_true", help="the whole grid of networks, batches and sizes: hours")
    extent.add_argument("--quick", action="store_true", help="tiny networks, a few rounds: whether it runs at all")
    parser.add_argument("--only", metavar="GLOB", help="cases whose names match, such as 'restormer*/b8/*'")
    parser.add_argument("--list", action="store_true", help="print the cases' names and stop")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="cases of this device only")
    parser.add_argument("--rounds", type=int, default=Effort.rounds, help="of each case, at most")
    parser.add_argument(
        "--seconds", type=float, default=Effort.seconds, help=f"for each case, but {LEAST_ROUNDS} rounds at least"
    )
    parser.add_argument("--output", type=Path, default=Path("bench-output"), help="folder to write to")
    return parser


def _devices() -> list[str]:
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _run(cases: Sequence[Case], effort: Effort, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    conversion: dict[str, float] = {}
    start = time.perf_counter()
    try:
        for number, result in enumerate(_measured(cases, effort, conversion, results), 1):
            print(f"{time.perf_counter() - start:6.0f} s  {number:3}/{len(cases)}  {_line(result)}", flush=True)
            _write(results, conversion, output)  # at once, so that a run of hours can be interrupted
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
    plots = draw(results, output)
    print(f"Written to {output}: {', '.join(['results.json', 'results.md', *(plot.name for plot in plots)])}")


def _measured(
    cases: Sequence[Case], effort: Effort, conversion: dict[str, float], results: list[Result]
) -> Iterator[Result]:
    """Measure case by case, adding to `results`; a network is converted once for the cases that follow each other."""
    held: tuple[tuple[str, int | None, str], Pair] | None = None
    for case in cases:
        key = (case.network, case.box_factor, case.device)
        if held is None or held[0] != key:
            held = None  # frees it before the next is made
            held = key, convert(case.network, case.box_factor, case.device, time.perf_counter)
            conversion.setdefault(case.network, held[1].seconds)
        reason = _too_large(case, results)
        results.append(Result(case, skipped=reason) if reason else measure(case, held[1], effort))
        yield results[-1]


def _too_large(case: Case, results: Sequence[Result]) -> str | None:
    """Why a case on CPU is expected to take more memory than there is, by the smaller ones of its network."""
    total = machine.memory()
    if case.device != "cpu" or total is None:
        return None
    alike = [r for r in results if (r.case.network, r.case.mode, r.case.device) == (case.network, case.mode, "cpu")]
    pixels = case.batch * case.size**2
    needs = [p * pixels / (r.case.batch * r.case.size**2) for r in alike for p in r.peak.values() if p is not None]
    # Small cases have a fixed part beside what grows, so the largest of them tells best: it needs the least by pixel.
    if not needs or min(needs) <= _MOST_MEMORY * total:
        return None
    return f"expected to take {min(needs) / 2**30:.0f} GiB at least"


def _line(result: Result) -> str:
    if result.skipped is not None:
        return f"{result.case.name}: {result.skipped}"
    others = [variant for variant in result.seconds if variant != "static"]
    ratios = ", ".join(f"{variant} {statistics.median(result.ratios(variant)):.3f}" for variant in others)
    return f"{result.case.name}: {result.median('static'):.4g} s; {ratios}"


def _write(results: Sequence[Result], conversion: dict[str, float], output: Path) -> None:
    described = machine.describe()
    text = json.dumps(as_json(results, described, conversion), indent=1)
    (output / "results.json").write_text(text + "\n", encoding="utf-8")
    (output / "results.md").write_text(as_markdown(results, described, conversion), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
