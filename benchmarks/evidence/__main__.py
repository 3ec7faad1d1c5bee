"""`python -m benchmarks.evidence`: train, compare, and write tables and curves."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.evidence.networks import NETWORKS
from benchmarks.evidence.photographs import divided
from benchmarks.evidence.report import as_json, as_markdown, draw, read
from benchmarks.evidence.runs import ARMS, Recipe, Run, Runner


def main(arguments: list[str] | None = None) -> int:
    """Carry out the chosen runs; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = Recipe(
        before=options.before,
        steps=options.steps,
        rate=options.rate,
        rate_after=options.rate_after,
        crop=options.crop,
    )
    networks, seeds = options.networks, options.seeds
    if options.quick:
        recipe = replace(recipe, before=20, steps=20, patch=32, crop=64, evaluations=2)
        networks, seeds = ["tiny"], 2
    runs = [
        Run(regime, network, seed, arm)
        for seed in range(seeds)  # the outer loop: what is interrupted is complete for some seeds
        for regime in options.regimes
        for network in networks
        for arm in ARMS
    ]
    chosen = [run for run in runs if any(fnmatch.fnmatch(run.name, pattern) for pattern in options.only)]
    if not chosen and not options.report:
        print("No run matches --only.", file=sys.stderr)
        return 1
    try:
        if not options.report:
            _carry_out(Runner(options.output, recipe, *divided(options.photographs)), chosen)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    _write(options.output)
    return 0


def _carry_out(runner: Runner, runs: Sequence[Run]) -> None:
    for run in runs:
        result = runner.carry_out(run)
        scores = result["curve"][-1]["psnr"].values()
        print(f"{run.name}: {sum(scores) / len(scores):.2f} dB, {result['parameters']:,} parameters", flush=True)


def _write(output: Path) -> None:
    results = read(output)
    if not results:
        print(f"No run is finished in {output}.")
        return
    (output / "evidence.md").write_text(as_markdown(results), encoding="utf-8")
    (output / "evidence.json").write_text(json.dumps(as_json(results), indent=2) + "\n", encoding="utf-8")
    draw(results, output)
    print(f"The tables are in {output / 'evidence.md'}.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evidence",
        description="Converted and unconverted networks, trained alike and compared on held-out photographs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    known = [name for name in NETWORKS if name != "tiny"]
    add = parser.add_argument
    add("--photographs", type=Path, help="folder of `python -m benchmarks.evidence.photographs`; else a few of wheels")
    add("--output", type=Path, default=Path("evidence-output"), help="finished runs in it are not done again")
    add("--networks", nargs="+", choices=known, default=known)
    add("--regimes", nargs="+", choices=("trained", "scratch"), default=["trained", "scratch"])
    add("--seeds", type=int, default=3, help="how many")
    add("--before", type=int, default=Recipe.before, help="steps before the conversion")
    add("--steps", type=int, default=Recipe.steps, help="steps of each arm")
    add("--rate", type=float, default=Recipe.rate, help="learning rate before the conversion, and from scratch")
    add("--rate-after", type=float, default=Recipe.rate_after, help="learning rate after it")
    add("--crop", type=int, default=Recipe.crop, help="side of the middle of the held-out photographs, in pixels")
    add("--only", nargs="+", default=["*"], metavar="GLOB", help="runs by name, such as 'trained/unet/*/converted'")
    add("--threads", type=int, default=0, help="of PyTorch; 0: as many as it takes by itself")
    add("--report", action="store_true", help="write tables and curves of what is finished, and train nothing")
    add("--quick", action="store_true", help="a tiny network and a few steps: whether it runs at all")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
