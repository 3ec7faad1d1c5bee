"""The paper's training settings in numbers of images, and how many steps each recipe takes on them.

python tests/helpers/published_settings.py prints the table of docs/how-to/recipes.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from hairify import recipes
from hairify.cli.options import make_settings, read_tables
from hairify.data.datasets import DataSettings
from hairify.training import TrainingSettings

BSD400_AND_WED = 400 + 4_744
NOISE = dict.fromkeys(("noise15", "noise25", "noise50"), BSD400_AND_WED)
RAIN = {"rain": 200}  # Rain100L
HAZE = {"haze": 72_135}  # OTS
BLUR = {"blur": 2_103}  # GoPro
LOW_LIGHT = {"low_light": 485}  # LOL-v1

SETTINGS: Mapping[str, Mapping[str, int]] = {
    "three degradations (Tables 1, 7 and 8)": NOISE | RAIN | HAZE,
    "five degradations (Table 2)": NOISE | RAIN | HAZE | BLUR | LOW_LIGHT,
    "haze (Tables 3a, 7 and 8)": HAZE,
    "rain (Tables 3b, 5, 7 and 8)": RAIN,
    "noise (Tables 3c, 6, 7 and 8)": NOISE,
    "noise and rain (Tables 7 and 8)": NOISE | RAIN,
    "noise and haze (Tables 7 and 8)": NOISE | HAZE,
    "rain and haze (Tables 7 and 8)": RAIN | HAZE,
}
CODE_REPEATS = {"rain": 120, "low_light": 20, "blur": 5, "noise": 3}
RECIPES = ("paper", "paper-single", "authors", "promptir", "modern")


def epoch_of(setting: str, repeats: Mapping[str, int]) -> int:
    """The images of an epoch."""
    return sum(
        count * repeats.get("noise" if name.startswith("noise") else name, 1)
        for name, count in SETTINGS[setting].items()
    )


def steps_table() -> str:
    """The steps of each recipe on each setting, in Markdown."""
    lines = [
        f"| training on | images | {' | '.join(f'`{name}`' for name in RECIPES)} |",
        f"|---|{'---:|' * (len(RECIPES) + 1)}",
    ]
    for setting in SETTINGS:
        counts = []
        for name in RECIPES:
            tables = read_tables(recipes.path(name))
            repeats = make_settings(DataSettings, tables["data"], {}).repeats
            training = make_settings(TrainingSettings, tables["training"], {})
            counts.append(f"{training.total_steps(epoch_of(setting, repeats)):,}")
        lines.append(f"| {setting} | {epoch_of(setting, {}):,} | {' | '.join(counts)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(steps_table())
