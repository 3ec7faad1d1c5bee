"""`python -m benchmarks.evidence`: train, compare, and write tables and curves."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch

from benchmarks.evidence.networks import NETWORKS
from benchmarks.evidence.photographs import divided
from benchmarks.evidence.report import as_json, as_markdown, draw, read
from benchmarks.evidence.runs import ARMS, Recipe, Run, Runner

USUAL = ("unet", "nafnet", "restormer")
"""Networks that a CPU can train."""

QUICK = Recipe(before=20, steps=20, patch=32, crop=64, evaluations=2)

_OF_THE_RECIPE: dict[str, tuple[type, str]] = {
    "before": (int, "steps before the conversion"),
    "steps": (int, "steps of each arm"),
    "rate": (float, "learning rate before the conversion, and from scratch"),
    "rate_after": (float, "learning rate after it"),
    "patch": (int, "side of the patches, in pixels"),
    "per_degradation": (int, "patches of each degradation in a step"),
    "crop": (int, "side of the middle of the held-out photographs, in pixels"),
    "precision": (str, "number type of the networks' computations, no or bf16"),
}
assert set(_OF_THE_RECIPE) <= {field.name for field in fields(Recipe)}


def main(arguments: list[str] | None = None) -> int:
    """Carry out the chosen runs; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    decided = [name for name in (*_OF_THE_RECIPE, "networks", "seeds") if getattr(options, name) is not None]
    if options.quick and decided:
        given = ", ".join("--" + name.replace("_", "-") for name in decided)
        print(f"--quick decides by itself what {given} says; leave out one or the other.", file=sys.stderr)
        return 2
    recipe = Recipe(**{name: value for name in _OF_THE_RECIPE if (value := getattr(options, name)) is not None})
    networks, seeds = options.networks or USUAL, options.seeds or 3
    if options.quick:
        recipe = QUICK
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
    )
    known = [name for name in NETWORKS if name != "tiny"]
    add = parser.add_argument
    add("--photographs", type=Path, help="folder of `python -m benchmarks.evidence.photographs`; else a few of wheels")
    add("--output", type=Path, default=Path("evidence-output"), help="finished runs in it are not done again")
    add("--networks", nargs="+", choices=known, help=f"which; otherwise {', '.join(USUAL)}")
    add("--regimes", nargs="+", choices=("trained", "scratch"), default=["trained", "scratch"], help="default: both")
    add("--seeds", type=int, help="how many; otherwise 3")
    usual = Recipe()
    for name, (kind, text) in _OF_THE_RECIPE.items():
        add("--" + name.replace("_", "-"), type=kind, help=f"{text}; otherwise {getattr(usual, name)}")
    add("--only", nargs="+", default=["*"], metavar="GLOB", help="runs by name, such as 'trained/unet/*/converted'")
    add("--threads", type=int, default=0, help="of PyTorch; 0: as many as it takes by itself")
    add("--report", action="store_true", help="write tables and curves of what is finished, and train nothing")
    add("--quick", action="store_true", help="a tiny network and a few steps: whether it runs at all")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
