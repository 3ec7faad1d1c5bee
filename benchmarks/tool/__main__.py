"""`python -m benchmarks.tool`: what training, loading, restoring and starting cost beside the network.

Written are results.json, with the seconds of every round, and results.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import machine
from benchmarks.report import table
from benchmarks.tool import loading, restoring, starting, training
from benchmarks.tool.rounds import Row

PARTS: dict[str, tuple[Callable[[int], Iterator[Row]], int, int]] = {
    "training": (training.rows, 100, 6),
    "loading": (loading.rows, 800, 40),
    "restoring": (restoring.rows, 7, 1),
    "starting": (starting.rows, 7, 1),
}
"""By name: what measures, and how much of it: steps, patches or rounds; and of a quick run."""

_METHOD = """\
What is compared runs by turns in one process; given are medians, and as share that of the shares in the single rounds.

- **training**: after each step of `hairify.training.train`, one of a bare loop on the same batch, with the same
  network, loss, optimizer and, where weights are averaged, average.
- **loading**: one process, of photographs of two megapixels.
- **restoring**: after each tile of `restore_tiled`, the network alone on the same one, in pixels of tiles, which
  overlap; and from file to file.
- **starting**: from the start of Python to its end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen parts; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tool", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help=f"otherwise {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="try the script itself")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: as many as it takes by itself")
    parser.add_argument("--output", type=Path, default=Path("bench-output/tool"), help="folder for the results")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    here = machine.describe()
    print(f"{here}\n\n{_METHOD}", flush=True)
    results: dict[str, list[Row]] = {}
    text = f"{here}\n\n{_METHOD}\n"
    for name in options.parts or PARTS:
        rows, much, little = PARTS[name]
        results[name] = [*rows(little if options.quick else much)]
        section = f"\n## {name.capitalize()}\n\n{_table(results[name])}\n"
        print(section, flush=True)
        text += section
    options.output.mkdir(parents=True, exist_ok=True)
    found = {name: [_plain(row) for row in rows] for name, rows in results.items()}
    plain = json.dumps({"machine": dataclasses.asdict(here), **found}, indent=2)
    (options.output / "results.json").write_text(plain, encoding="utf-8")
    (options.output / "results.md").write_text(text, encoding="utf-8")
    print(f"Written to {options.output}.")
    return 0


def _plain(row: Row) -> dict[str, object]:
    return dataclasses.asdict(row) | {"rate": row.rate, "bare_rate": row.bare_rate, "share": row.share}


def _table(rows: Sequence[Row]) -> str:
    head = ("", "ms", "a second", "bare", "share", "aim", "")
    return table(head, [_words(row) for row in rows])


def _words(row: Row) -> tuple[str, ...]:
    more = ", ".join(f"{value:,.2f} {name}" for name, value in row.more.items())
    return (
        row.name,
        f"{1e3 * statistics.median(row.ours):,.1f}",
        f"{row.rate:,.2f} {row.unit}",
        "" if row.bare_rate is None else f"{row.bare_rate:,.2f}",
        "" if row.share is None else f"{row.share:.3f}",
        "" if row.aim is None else f"≥ {row.aim}",
        more,
    )


if __name__ == "__main__":
    sys.exit(main())
