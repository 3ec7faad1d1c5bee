"""The page: sections, style and script in one file."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from hairify._support.files import write_text
from hairify.report._findings import Findings
from hairify.report._markup import Markup, join
from hairify.report._sections import contents, header, sections


def write_report(findings: Findings, path: Path) -> None:
    """Write the page, whole or not at all. Equal findings give equal bytes.

    Raises:
        OSError: the file cannot be written.
    """
    write_text(path, render(findings))


def render(findings: Findings) -> str:
    """The page, complete in itself: it loads nothing from anywhere."""
    parts = sections(findings)
    return Template(_template("page.html")).substitute(
        title=join([f"{findings.title} · hairify report"]),
        style=_template("style.css"),
        script=_template("script.js"),
        header=header(findings),
        contents=contents(list(parts)),
        sections=Markup("\n".join(parts.values())),
        numbers=inlined(numbers(findings)),
    )


def numbers(findings: Findings) -> dict[str, Any]:
    """What the page shows, without its images, as JSON has it; an infinite PSNR is None."""
    found, curves, results = findings.conditioning, findings.curves, findings.results
    return {
        "title": findings.title,
        "parameters": findings.parameters,
        "facts": dict(findings.facts),
        "plan": json.loads(findings.plan.to_json()) if findings.plan else None,
        "givs": {name: _rounded(givs.tolist()) for name, givs in found.givs.items()} if found else None,
        "crops": {name: list(crops) for name, crops in found.crops.items()} if found else None,
        "selecting_vectors": {
            name: {block: _rounded(vector.tolist()) for block, vector in blocks.items()}
            for name, blocks in found.vectors.items()
        }
        if found
        else None,
        "examples": [
            {
                "task": one.task,
                "name": one.name,
                "before": [_finite(one.before.psnr), one.before.ssim],
                "after": [_finite(one.after.psnr), one.after.ssim],
            }
            for one in findings.examples
        ],
        "use": findings.use.plain() if findings.use else None,
        "results": results.plain() if results else None,
        "baseline": {"name": findings.baseline.name, **findings.baseline.results.plain()}
        if findings.baseline
        else None,
        "losses": {name: [list(point) for point in points] for name, points in curves.losses.items()},
        "validation": {name: [list(point) for point in points] for name, points in curves.validation.items()},
    }


def inlined(data: Any) -> str:
    """JSON within a script element: no `<`, so that no text in it can end the element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _rounded(values: Any) -> Any:
    """Nested lists of floats with five digits that count."""
    return [_rounded(value) for value in values] if isinstance(values, list) else float(f"{values:.5g}")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _template(name: str) -> str:
    return files("hairify.report").joinpath("template").joinpath(name).read_text(encoding="utf-8")
