"""Natural photographs to learn from and to test on, gathered from packages that many have anyway."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from hairify.data.photographs import photographs

_LONGEST = 1000  # pixels; the packages' photographs have up to 6000

_SYSTEM = Path("/usr/share")
_FOLDERS = {
    "lomiri-wallpapers-16.04": "backgrounds",
    "lomiri-wallpapers-20.04": "backgrounds",
    "mate-backgrounds": "backgrounds/mate/nature",
    "plasma-workspace-wallpapers": "wallpapers",
    "kphotoalbum": "kphotoalbum/demo",
}
"""By Debian package, where it puts its pictures."""

PHOTOGRAPHS = {
    "backgrounds": (
        *("Picture_1A_by_freespace", "Wine_by_Jakkub_Mede", "greentock_by_Peter_Nerlich"),
        *("seeding_by_Clements_Engelhardt", "aitzgorri_by_Aitzol_Berasategi", "Kleiber_by_Lukas_Baubkus"),
        *("Dragonfly_by_Bolly", "friends_by_Aitzol_Berasategi", "sunset_by_Aitzol_Berasategi"),
        *("Picture_0B_by_freespace", "picosdeeuropa_by_Aitzol_Berasategi", "life_by_Aitzol_Berasategi"),
        "Bridge_by_Sander_Klootwijk",
    ),
    "backgrounds/mate/nature": (
        *("Garden", "Dune", "Aqua", "TwoWings", "Storm", "GreenMeadow", "RainDrops", "Blinds", "FreshFlower"),
        *("LadyBird", "YellowFlower"),
    ),
    "wallpapers": (
        *("FallenLeaf", "Path", "EveningGlow", "Kite", "ColorfulCups", "OneStandsOut", "ColdRipple", "BytheWater"),
    ),
    "kphotoalbum/demo": (
        *("donna_2", "snow", "bar55_2", "skagen", "blackie", "spiff", "spiff_2", "pool", "grand_canyon_2", "donna"),
    ),
}
"""The photographs among the pictures of each folder; the others are drawings, portraits or much alike."""

WHEELS = ("astronaut.png", "motorcycle_left.png", "coffee.png", "chelsea.png", "rocket.jpg", "flower.jpg", "china.jpg")
"""Photographs that come with Python packages."""

HELD_OUT = (
    *("picosdeeuropa_by_Aitzol_Berasategi", "life_by_Aitzol_Berasategi", "Bridge_by_Sander_Klootwijk"),
    *("RainDrops", "LadyBird", "Path", "OneStandsOut", "BytheWater", "spiff", "donna", "chelsea", "china"),
)
"""The photographs that no network sees before it is evaluated."""


def main() -> None:
    """Gather them in a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evidence.photographs",
        description=f"Gather photographs from the Debian packages {', '.join(_FOLDERS)} and from Python packages.",
    )
    parser.add_argument("output", type=Path)
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    missing = [name for name, path in sources().items() if path is None]
    for name, path in sources().items():
        if path is not None:
            with Image.open(path) as image:
                photograph = image.convert("RGB")
            photograph.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
            photograph.save(output / f"{name}.png")
    print(f"{len(sources()) - len(missing)} photographs are in {output}; not found: {', '.join(missing) or 'none'}")


def sources() -> dict[str, Path | None]:
    """{name: file, or None where its package is not installed}."""
    found: dict[str, Path | None] = {}
    for folder, names in PHOTOGRAPHS.items():
        for name in names:
            within = f"{name}/contents/images/*" if folder == "wallpapers" else f"{name}.jpg"
            candidates = [p for p in (_SYSTEM / folder).glob(within) if not p.is_symlink() and p.stat().st_size > 1000]
            found[name] = max(candidates, key=lambda path: path.stat().st_size, default=None)
    return found | {path.stem: path for path in photographs(WHEELS)}


def divided(folder: Path | None) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Photographs to learn from and held-out ones; of a folder, or without one those in Python packages."""
    paths = sorted(folder.glob("*.png")) if folder else photographs(WHEELS)
    learnt = tuple(path for path in paths if path.stem not in HELD_OUT)
    tested = tuple(path for path in paths if path.stem in HELD_OUT)
    if not learnt or not tested:
        raise SystemExit(f"{folder} lacks photographs to learn from or to test on; gather them by .photographs")
    return learnt, tested


if __name__ == "__main__":
    main()
