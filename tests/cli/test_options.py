"""Settings from flags and from TOML, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
import typer
import typer.testing
from typing_extensions import Doc

from hairify.cli import options
from hairify.cli._app import app
from hairify.cli._usual_names import LAUNCHED, USUAL, meant
from hairify.cli.options import Said, make_settings, read_tables, settings_classes, to_toml, with_settings
from hairify.errors import OptionError
from hairify.training import TrainingSettings


@dataclass(frozen=True)
class KitchenSettings:
    """One field of each kind."""

    count: Annotated[int, Doc("how many")] = 3
    heat: Annotated[float, Doc("how hot")] = 0.5
    lit: Annotated[bool, Doc("whether it burns")] = True
    mode: Annotated[Literal["bake", "fry"], Doc("what is done")] = "bake"
    name: Annotated[str | None, Doc("what it is called")] = None
    limit: Annotated[int | None, Doc("how many at most")] = None
    place: Annotated[Path | None, Doc("where it is")] = None
    places: Annotated[tuple[Path, ...], Doc("where they are")] = ()
    dishes: Annotated[tuple[str, ...], Doc("what there is")] = ("soup", "bread")
    sizes: Annotated[tuple[int, ...], Doc("how large they are")] = (1, 2)
    options: Annotated[Mapping[str, Any], Doc("what else")] = field(default_factory=dict)


FULL = KitchenSettings(
    count=5,
    heat=2.0,
    lit=False,
    mode="fry",
    name="stove",
    limit=7,
    place=Path("here"),
    places=(Path("a,b"), Path("c")),
    dishes=("stew",),
    sizes=(4, 5),
    options={"salt": 1, "herbs": ["thyme", "sage"], "word": "plain", "deep": True},
)
FLAGS = [
    *("--count", "5", "--heat", "2", "--no-lit", "--mode", "fry", "--name", "stove", "--limit", "7"),
    *("--place", "here", "--places", "a,b", "--places", "c", "--dishes", "stew", "--sizes", "4,5"),
    *("--option", "salt=1", "--option", 'herbs=["thyme", "sage"]', "--option", "word=plain", "--option", "deep=true"),
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., KitchenSettings]:
    """A command that takes the settings, from its words to the settings."""
    monkeypatch.setattr(options, "settings_classes", lambda: [KitchenSettings])
    got: list[KitchenSettings] = []

    def command(kitchen: KitchenSettings, dry: Annotated[bool, typer.Option("--dry")] = False) -> None:
        """Cook."""
        got.append(kitchen)

    app = typer.Typer()
    app.command()(with_settings(command))

    def call(*words: str) -> KitchenSettings:
        result = typer.testing.CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return got[-1]

    call.app = app  # type: ignore[attr-defined]
    return call


def test_every_kind_of_field_is_a_flag(run: Callable[..., KitchenSettings]) -> None:
    assert run() == KitchenSettings() != FULL
    assert run(*FLAGS) == FULL


def test_every_kind_of_field_goes_through_a_file(run: Callable[..., KitchenSettings], tmp_path: Path) -> None:
    for settings in (FULL, KitchenSettings()):
        (tmp_path / "kitchen.toml").write_text(to_toml(settings))
        assert run("--config", str(tmp_path / "kitchen.toml")) == settings


def test_flags_count_before_the_file_and_the_file_before_defaults(
    run: Callable[..., KitchenSettings], tmp_path: Path
) -> None:
    (tmp_path / "kitchen.toml").write_text('[kitchen]\ncount = 8\nheat = 1\nlit = false\ndishes = ["cake"]\n')
    got = run("--config", str(tmp_path / "kitchen.toml"), "--count", "9", "--lit")
    assert got == KitchenSettings(count=9, heat=1.0, lit=True, dishes=("cake",))


def test_help_has_every_field_with_its_text_and_default(run: Callable[..., KitchenSettings]) -> None:
    result = typer.testing.CliRunner().invoke(run.app, ["--help"], env={"COLUMNS": "200"})  # type: ignore[attr-defined]
    text = click.unstyle(result.output)
    for words in (
        "--count",
        "how many",
        "(default: 3)",
        "--no-lit",
        "(default: on)",
        "bake|fry",
        "soup,bread",
        "--option",
    ):
        assert words in text, words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[kitchen]\ncuont = 1", "'cuont', which is not known. Did you mean 'count'"),
        ("[kichen]\ncount = 1", r"Did you mean \[kitchen\]"),
        ("count = 1", "'count', which is no table"),
        ("[kitchen]\ncount = 1.5", "'count' in .kitchen. is 1.5; accepted is a whole number"),
        ("[kitchen]\ncount = true", "accepted is a whole number"),
        ('[kitchen]\nlit = "yes"', "accepted is true or false"),
        ('[kitchen]\nmode = "boil"', "accepted is 'bake' or 'fry'"),
        ('[kitchen]\ndishes = "soup"', "accepted is a list, each a string"),
        ("[kitchen]\nsizes = [1, 'two']", "accepted is a whole number"),
        ("[kitchen\n", "cannot be read as TOML"),
    ],
)
def test_what_a_file_has_wrong_is_named(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(options, "settings_classes", lambda: [KitchenSettings])
    (tmp_path / "kitchen.toml").write_text(text)
    with pytest.raises(OptionError, match=message):
        make_settings(KitchenSettings, read_tables(tmp_path / "kitchen.toml")["kitchen"], {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"options": ["salt"]}, "NAME=VALUE"),
        ({"sizes": "1,two"}, "--sizes is 'two'"),
    ],
)
def test_what_a_flag_has_wrong_is_named(words: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_settings(KitchenSettings, {}, words)


def test_a_key_of_a_former_version_is_answered_with_what_says_the_same_now() -> None:
    with pytest.raises(
        OptionError, match=r"'tensorboard', which is not known. It is now log_with = \[\"tensorboard\"\]"
    ):
        make_settings(TrainingSettings, {"tensorboard": True}, {})


def test_a_command_learns_what_was_said_by_flags_and_by_the_file(tmp_path: Path) -> None:
    """Not what is at its default; also where what was said is the default."""
    (tmp_path / "kitchen.toml").write_text('[kitchen]\nmode = "fry"\ncount = 9\n')
    told: dict[str, Any] = {}

    def command(kitchen: KitchenSettings, said: Said) -> None:
        told.update(said)

    names = [field.name for field in dataclasses.fields(KitchenSettings)]
    given = dict.fromkeys(names) | {"config": tmp_path / "kitchen.toml", "heat": 0.5, "count": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(options, "settings_classes", lambda: [KitchenSettings])
        with_settings(command)(**given)
    assert told == {"kitchen": {"mode": "fry", "count": 4, "heat": 0.5}}


def test_every_usual_name_leads_to_an_option_of_training_or_of_another_command() -> None:
    flags = {
        flag
        for command in typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
        for parameter in command.params
        for flag in parameter.opts
    }
    assert {f"--{meaning}".split()[0] for meaning in USUAL.values()} <= flags
    assert not {f"--{name}" for name in (*USUAL, *LAUNCHED)} & flags
    assert meant("--lr", ["--learning-rate", "--output"]) == " Did you mean --learning-rate?"
    assert meant("--lr", ["--output"]) == ""
    assert meant("--outptu", ["--output", "-o"]) == " Did you mean --output?"


def test_the_settings_of_all_commands_fit_into_one_file(tmp_path: Path) -> None:
    classes = settings_classes()
    defaults = [cls() for cls in classes]
    (tmp_path / "all.toml").write_text(to_toml(*defaults))
    tables = read_tables(tmp_path / "all.toml")
    assert [make_settings(cls, tables[options.table_name(cls)], {}) for cls in classes] == defaults
    names = [name for cls in classes for name in cls.__dataclass_fields__]
    assert len(set(names)) == len(names), "a flag would have two meanings"
