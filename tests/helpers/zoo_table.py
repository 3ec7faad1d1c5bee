"""docs/zoo.md, out of what tests/test_zoo.py measured: python tests/helpers/zoo_table.py RESULTS docs/zoo.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from hairify import Plan

Result: TypeAlias = dict[str, Any]

LAWS = ("warm start", "warm start, training", "batch = singles", "bake")
HEAD = ("network", "split", "tracer", "levels", "layers", "left", "share", "parameters before", "after")

INTRODUCTION = """\
# The zoo

Every architecture of image restoration that the package [spandrel](https://github.com/chaiNNer-org/spandrel) ships, in
a small configuration and with random weights, converted as published: `hairify(network, preset="published")`. The
tests check each for these laws, in float64, at two image sizes of different areas and aspects where it takes two:

- the converted network computes what the original computes, in evaluation mode and, draw for draw, in training mode
  (`warm start`, `warm start, training`);
- once DAC and HSNs have moved, a batch gives what its images give alone (`batch = singles`);
- `bake` gives a static network of the original class and keys that computes the same for its image (`bake`);
- in training mode every parameter of DAC, HSNs and boxes gets a gradient, the layers kept get at first the gradients
  that they had, and the original stays as it was.

The plan is made a second time of the network as it is, in float32, and must be the same. For the examination alone,
the noise that AuraSR and GFPGAN draw is held still, and what FFTformer computes in float32 is computed in float64.
GFPGAN and IPT are examined at one size, for they take no other, and Uformer at two squares. GRL takes a second size in
float32 only, and is examined at it in float32, where 1e-5 is allowed.

`make zoo` checks all of it, and `make zoo-page` writes this page anew. An error is the largest difference of any output
value, relative to the largest value; it differs a little between machines, and at most 1e-10 is allowed. `layers`
become hyper layers, `left` stay as they are, and `share` is the part of the parameters after the split that is
converted: where it is small a network obeys the laws with little of it converted, and hairify warns. Much of what is
added to networks as small as these is the published DAC, about 0.4M parameters whatever the network.
"""
NOT_CONVERTED = """
## Not converted

Not with other arguments either:
"""
EXPERT = """
## The split, and an expert's

Read from each network's code: in a U-net what leads into the lowest resolution, in a network of constant resolution the
end of the first half of its repeated blocks. This is no blind test: the names were written down with hairify's choices
known, and its rules were improved on these networks, so it shows agreement with a reading of the code, not how well the
rules do on networks not seen before.
"""
TRAPS = """
## Traps

Networks made to trap a converter, some with arguments of their own. What is refused is refused for the reason given.
"""


def result(name: str, plan: Plan | None, errors: dict[str, float], **more: Any) -> Result:
    """What is kept of one network; without a plan, it was refused."""
    measured: Result = {"name": name, "kind": "spandrel", "errors": errors, **more}
    if plan is not None:
        converted = sum(len(level.blocks) * len(level.layers) for level in plan.levels)
        measured |= {"split": plan.split, "tracer": plan.tracer, "levels": len(plan.levels), "layers": converted}
        measured |= {"left": len(plan.skipped), "share": plan.share, "parameters": list(plan.parameters)}
    return measured


def structure(measured: Result) -> str:
    """What is the same on every machine: the beginning of a row of the table, or why there is none."""
    if "split" not in measured:
        return f"- {measured['name']}: {measured.get('why') or measured['refused']}"
    before, after = measured["parameters"]
    counts = [f"{measured[column]:,}" for column in ("levels", "layers", "left")]
    numbers = [*counts, f"{measured['share']:.0%}", f"{before:,}", f"{after:,}"]
    return row([measured["name"], f"`{measured['split']}`", measured["tracer"], *numbers])


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def from_row(line: str) -> Result:
    """What a row of the table tells, its name, its structure and its errors."""
    cells = [cell.strip(" `") for cell in line[1:-2].split("|")]
    (name, split, tracer, *numbers), errors = cells[: len(HEAD)], cells[len(HEAD) :]
    levels, layers, left, share, *parameters = (int(number.replace(",", "").rstrip("%")) for number in numbers)
    measured: Result = {"name": name, "split": split, "tracer": tracer, "levels": levels, "layers": layers}
    measured |= {"left": left, "share": share / 100, "parameters": parameters}
    return measured | {"errors": {law: float(error) for law, error in zip(LAWS, errors, strict=True) if error}}


def table(results: list[Result]) -> str:
    lines = [row([*HEAD, *LAWS]), row(["---", "---", "---", *["---:"] * (len(HEAD) + len(LAWS) - 3)])]
    for measured in results:
        errors = [f"{measured['errors'][law]:.0e}" if law in measured["errors"] else "" for law in LAWS]
        lines.append(f"{structure(measured)} {' | '.join(errors)} |")
    return "\n".join(lines)


def page(results: list[Result]) -> str:
    """The text of docs/zoo.md."""
    results = sorted(results, key=lambda r: (r["kind"], r["name"].lower()))
    zoo = [r for r in results if r["kind"] == "spandrel"]
    traps = [r for r in results if r["kind"] == "trap"]
    converted, refused = [r for r in zoo if "split" in r], [r for r in zoo if "split" not in r]
    agreed = [r for r in converted if r["split"] in r["expert"]]
    little = [f"{r['name']} ({r['share']:.0%})" for r in converted if round(r["share"], 2) < 0.5]
    text = [INTRODUCTION, f"{len(converted)} of {len(zoo)} convert, and obey every law."]
    text += [f"Of {len(little)} less than half is converted: {', '.join(little)}.\n", table(converted)]
    text += [NOT_CONVERTED] if refused else []
    text += map(structure, refused)
    text += [EXPERT, f"The two agree on {len(agreed)} of {len(converted)}. Of the others:\n"]
    others = [r for r in converted if r not in agreed]
    text += [f"- {r['name']}: `{r['split']}`, not `{r['expert'][0]}`. {r['why']}" for r in others]
    if traps:
        text += [TRAPS, table([r for r in traps if "split" in r]), ""]
        text += [structure(r) for r in traps if "split" not in r]
    return "\n".join(text) + "\n"


def main(folder: str, target: str) -> None:
    results = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("*.json")]
    Path(target).write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
