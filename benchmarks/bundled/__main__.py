"""Make the restorer that comes with hairify, and the unconverted network trained alike: hours on one core each."""

from __future__ import annotations

import argparse
import dataclasses
import math
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.bundled.pictures import write_pictures
from benchmarks.evidence.photographs import divided
from hairify.evaluation import read_results
from hairify.sharing import from_pretrained, save_pretrained
from hairify.sharing._hub import BUNDLED_FOLDER

ARMS = {"converted": (), "unconverted": ("--no-convert",)}
STAGES = ("first", "second", "third")
HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bundled", description=f"{__doc__} Each step goes on from where it was left."
    )
    parser.add_argument("output", type=Path, help="folder for photographs and runs")
    parser.add_argument("--photographs", type=Path, help="as benchmarks.evidence.photographs gathers them")
    parser.add_argument("--only", choices=(*ARMS, "pack"), help="one step; by default all")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    if not (given.output / "learn").is_dir():
        for folder, paths in zip(("learn", "held_out"), divided(given.photographs), strict=True):
            (given.output / folder).mkdir()
            for path in paths:
                shutil.copy(path, given.output / folder)
    for arm, options in ARMS.items():
        if given.only in (None, arm):
            train(given.output, arm, options)
    if given.only in (None, "pack"):
        pack(given.output)


def train(folder: Path, arm: str, options: tuple[str, ...]) -> None:
    """Train an arm in its stages and evaluate it; what is done already is not done again."""
    data = ["--data", str(folder / "learn"), "--test-data", str(folder / "held_out")]
    origin: list[str] = []
    for stage in STAGES:
        run = folder / f"{arm}-{stage}"
        anew = ["--config", str(HERE / f"{stage}.toml"), *data, *origin, *options]
        hairify("train", "--output", str(run), *(["--resume"] if (run / "checkpoints").is_dir() else anew))
        origin = ["--from", str(run)]
    hairify("evaluate", str(run))


def pack(folder: Path) -> None:
    """Put the converted network into the package, and its scores and pictures into the documentation."""
    restorer = from_pretrained(folder / f"converted-{STAGES[-1]}")
    about = {
        **restorer.about,
        "photographs": "37 of Debian's wallpaper packages, scikit-image and scikit-learn; docs/bundled.md lists them",
        "made by": "python -m benchmarks.bundled",
    }
    save_pretrained(dataclasses.replace(restorer, about=about), BUNDLED_FOLDER)
    write_table(folder)
    write_pictures(from_pretrained(), folder / "held_out", DOCS / "images")


def write_table(folder: Path) -> None:
    """Write the scores of both arms into docs/bundled.md, between its marks."""
    files = {arm: folder / f"{arm}-{STAGES[-1]}" / "results.json" for arm in ARMS}
    results = {arm: read_results(file) for arm, file in files.items() if file.is_file()}
    rows = [f"| PSNR in dB | degraded | {' | '.join(results)} |", f"|---|---:|{'---:|' * len(results)}"]
    converted = results["converted"]
    for task in converted.scores:
        cells = [converted.inputs[task].psnr, *(one.scores[task].psnr for one in results.values())]
        name = task.removeprefix("held_out ").replace("noise0", "clean")
        rows.append(f"| {name} | {' | '.join(f'{cell:.2f}' if math.isfinite(cell) else '–' for cell in cells)} |")
    page = DOCS / "bundled.md"
    head, mark, rest = page.read_text(encoding="utf-8").partition("<!-- scores -->\n")
    _, end, tail = rest.partition("<!-- end of scores -->")
    assert mark, page
    assert end, page
    page.write_text(f"{head}{mark}\n{chr(10).join(rows)}\n\n{end}{tail}", encoding="utf-8")


def hairify(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "hairify", *words], check=True)


if __name__ == "__main__":
    main()
