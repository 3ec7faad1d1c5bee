"""`python -m benchmarks.gpu`: test and measure on a GPU within the given minutes, the most important first.

It needs no more than PyTorch, numpy, safetensors, typing-extensions and, for the tests, pytest and hypothesis. What has
been found is written after each case.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from benchmarks import machine
from benchmarks.cases import Case
from benchmarks.gpu import kernels
from benchmarks.gpu.cases import NETWORKS, TINY, compiled, eager, least_seconds
from benchmarks.gpu.clock import Clock, limited
from benchmarks.gpu.report import Found
from benchmarks.gpu.testing import RunningTests
from benchmarks.measure import LEAST_ROUNDS, Effort, Result, measure
from benchmarks.variants import Pair, convert

EFFORT = Effort(rounds=9, seconds=1.5, least=0.02)
QUICK = Effort(rounds=LEAST_ROUNDS, seconds=0.1, least=0.001)

_TESTS_SHARE, _MOST_SECONDS_OF_TESTS = 0.4, 200
_SECONDS_OF_KERNELS = 80
_SECONDS_TO_CONVERT = 120
_LONGEST_CASE = {"eager": 40.0, "compiled": 150.0}


def main(arguments: Sequence[str] | None = None) -> int:
    """Test and measure; the exit status is that of the tests."""
    options = _parser().parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA here; `--device cpu --quick` tries the script itself.", file=sys.stderr)
        return 1
    clock = Clock(options.minutes)
    options.output.mkdir(parents=True, exist_ok=True)
    found = Found(machine.describe())
    tests = None if options.skip_tests else _start_tests(options)
    networks = TINY if options.quick else NETWORKS
    pairs = _converted(networks, found, clock)  # on the CPU, while the tests have the GPU
    if tests is not None:
        found.tests = tests.wait()
        print(f"{clock.gone:6.0f} s  tests: {found.tests}", flush=True)
    torch.set_float32_matmul_precision(
        "high"
    )  # TF32 in products, too, which PyTorch's default has in convolutions alone
    run = _Run(options.device, options.output, QUICK if options.quick else EFFORT, pairs, found, clock)
    run.cases(eager(options.device, options.quick))
    run.kernels(options.quick)
    run.cases(compiled(options.device, options.quick))
    print(f"\n{found.summary()}\nWritten to {options.output}, {clock.gone:.0f} s.", flush=True)
    return 0 if tests is None else tests.status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=9, help="in all, those of the tests included")
    parser.add_argument("--output", type=Path, default=Path("bench-output/gpu"), help="folder to write to")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the script itself")
    parser.add_argument("--quick", action="store_true", help="tiny networks, a few rounds: whether it runs at all")
    parser.add_argument("--skip-tests", action="store_true", help="measure only")
    return parser


def _start_tests(options: argparse.Namespace) -> RunningTests:
    seconds = min(_MOST_SECONDS_OF_TESTS, _TESTS_SHARE * 60 * options.minutes)
    return RunningTests(options.device, options.output / "tests.log", seconds)


def _converted(networks: Iterable[str], found: Found, clock: Clock) -> dict[str, Pair]:
    pairs = {}
    for network in networks:
        try:
            with limited(_SECONDS_TO_CONVERT):
                pairs[network] = convert(network, None, "cpu", time.perf_counter)
        except Exception as error:
            _tell(error, network)
            continue
        found.conversion[network] = pairs[network].seconds
        print(f"{clock.gone:6.0f} s  {network} converted in {pairs[network].seconds:.1f} s", flush=True)
    return pairs


class _Run:
    """Measures as long as there is time, and writes what it found after each case."""

    def __init__(
        self, device: str, output: Path, effort: Effort, pairs: dict[str, Pair], found: Found, clock: Clock
    ) -> None:
        self._device, self._output, self._effort, self._pairs = device, output, effort, pairs
        self._found, self._clock = found, clock

    def cases(self, cases: Iterable[Case]) -> None:
        for case in cases:
            result = self._measured(case)
            self._found.results.append(result)
            self._found.write(self._output)
            gc.collect()
            if self._device == "cuda":
                torch.cuda.empty_cache()
            if result.skipped is None:
                what = f"{1000 * result.median('static'):.2f} ms, hairified {1000 * result.median('hairified'):.2f} ms"
            else:
                what = result.skipped
            print(f"{self._clock.gone:6.0f} s  {case.name}: {what}", flush=True)

    def _measured(self, case: Case) -> Result:
        if case.network not in self._pairs:
            return Result(case, skipped="not converted")
        if self._clock.left < least_seconds(case):
            return Result(case, skipped="no time left")
        pair = self._pairs[case.network]
        try:
            with limited(min(self._clock.left, _LONGEST_CASE["compiled" if case.compiled else "eager"])):
                pair.static.to(self._device)
                pair.hair.to(self._device)
                return measure(case, pair, self._effort)
        except Exception as error:  # the other cases are worth having all the same
            _tell(error, case.name)
            return Result(case, skipped=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}")

    def kernels(self, quick: bool) -> None:
        """Rows of the tables of kernels, for a limited time."""
        until = self._clock.gone + min(_SECONDS_OF_KERNELS, 0.5 * self._clock.left)
        if self._clock.left < 0:
            return
        try:
            self._found.making.extend(kernels.making(self._device, quick))
        except Exception as error:
            _tell(error, "making weights")
        for row in kernels.rows(self._device, quick):
            self._found.rows.append(row)
            if self._clock.gone > until:
                break
        self._found.write(self._output)
        print(f"{self._clock.gone:6.0f} s  {len(self._found.rows)} rows of kernels", flush=True)


def _tell(error: Exception, what: str) -> None:
    print(f"{what} failed:\n{''.join(traceback.format_exception(error)[-3:])}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
