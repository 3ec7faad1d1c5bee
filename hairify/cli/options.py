"""From settings to options: the fields of settings classes are flags of the command line and keys of TOML tables.

A flag counts before the file, the file before the default. Fields are `Annotated[type, Doc(...)]`: the text is the
flag's help.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin

import tomli_w
import typer
from typing_extensions import Doc

from hairify import recipes
from hairify.data._settings import REPEATED
from hairify.errors import OptionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

S = TypeVar("S")

CONFIG, RECIPE = "config", "recipe"
_CONFIG_HELP = "TOML file with a table for each group of options, such as the config.toml that a run writes"
_RECIPE_HELP = "one of hairify's recipes, which `hairify recipes` lists; --config and flags count before it"
_RECIPE_TABLE = "training"  # commands whose options have this table take recipes
_EXAMPLES = {"--option": "dim=24", "--rates": "hsn=3"}
_FLAGS = {
    "options": "--option",  # one for each of the mapping's entries
    "start_from": "--from",  # which is no name in Python, and neither is this
    "as_degradation": "--as",
}
"""The flags that are not called as their fields."""

_RETIRED = {
    "tensorboard": 'log_with = ["tensorboard"], or log_with = ["none"] for tensorboard = false',
}
"""Keys of former versions, and what says the same now."""

_NOTHING_SAID: tuple[Any, ...] = (None, [], ())


class Said(dict[str, Mapping[str, Any]]):
    """What a user gave by flags or by the file: values of settings, by table and key.

    A command that has a parameter of this type gets it.
    """


def with_settings(
    function: Callable[..., Any], default_config: Callable[[Mapping[str, Any]], Path | None] = lambda given: None
) -> Callable[..., Any]:
    """A command of typer's, whose parameters that are settings classes become one option for each of their fields.

    Where there is such a parameter, the command gets `--config`, too; and `--recipe`, where it trains.

    Args:
        function: the command.
        default_config: the file that counts where `--config` is not given, from the command's other parameters.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    classes = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint) and isinstance(hint, type)}
    told = [name for name, hint in hints.items() if hint is Said]
    kept = (p for name, p in signature.parameters.items() if name not in classes and name not in told)
    own = [p.replace(annotation=hints[p.name]) for p in kept]
    options = [option for cls in classes.values() for option in _options(cls)]
    config = inspect.Parameter(
        CONFIG,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Path | None, typer.Option(help=_CONFIG_HELP, metavar="FILE")],
    )
    recipe = config.replace(
        name=RECIPE, annotation=Annotated[str | None, typer.Option(help=_RECIPE_HELP, metavar="NAME")]
    )
    trains = _RECIPE_TABLE in map(table_name, classes.values())

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        own_file = given.pop(CONFIG, None)
        file = own_file or (default_config(given) if classes else None)
        tables = read_tables(file) if file is not None else {}
        if trains and (named := given.pop(RECIPE, None)):
            _refuse_to_go_on_by(named, given)
            recipe_tables = read_tables(recipes.path(named))
            # What a run was begun with stands in its folder; whether it is still the same, the run finds out.
            first, second = (tables, recipe_tables) if own_file else (recipe_tables, tables)
            _refuse_idle_epochs(first.get(_RECIPE_TABLE, {}), second.get(_RECIPE_TABLE, {}))
            tables = _over(first, second)
        if trains and not given.get("resume"):  # a run that goes on knows better
            _refuse_idle_epochs(given, tables.get(_RECIPE_TABLE, {}))
        all_said = Said()
        for name, cls in classes.items():
            said = {field.name: given.pop(field.name) for field in dataclasses.fields(cls)}
            table = tables.get(table_name(cls), {})
            given[name] = made = make_settings(cls, table, said, file)
            keys = [key for key in said if key in table or said[key] not in _NOTHING_SAID]
            all_said[table_name(cls)] = {key: getattr(made, key) for key in keys}
        return function(**given, **dict.fromkeys(told, all_said))

    parameters = (
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        + options
        + [config] * bool(classes)
        + [recipe] * trains
    )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


Tables: TypeAlias = Mapping[str, Mapping[str, Any]]


def _over(first: Tables, second: Tables) -> dict[str, dict[str, Any]]:
    """The tables of two files, of which the first one counts before the second."""
    return {name: {**second.get(name, {}), **first.get(name, {})} for name in (*second, *first)}


def _refuse_idle_epochs(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Refuse epochs by which a run would not end, since what counts after them has steps.

    Raises:
        OptionError: they are given so.
    """
    name = next((name for name in ("epochs", "final_epochs") if first.get(name) is not None), None)
    if name is not None and first.get("steps") is None and second.get("steps") is not None:
        raise OptionError(
            f"`{name}` is {first[name]}, but the length of the run is given by `steps` ({second['steps']}) in a file "
            f"or recipe, before which epochs do not count. Give `steps` beside `{name}`, of which epochs are then "
            "shares; or a file without them."
        )


def _refuse_to_go_on_by(name: str, given: Mapping[str, Any]) -> None:
    """Refuse a recipe where a run goes on, which has its settings already."""
    if given.get("resume"):
        raise OptionError(
            f"--recipe is {name!r}, but a run that goes on keeps the settings it was begun with. Leave it out, or give "
            "single settings that may change as flags."
        )


def in_flags(message: str, names: Container[str]) -> str:
    """A message of the library, which speaks of arguments, for who typed flags: `patch_size` becomes --patch-size.

    Args:
        message: as the library has it.
        names: the arguments that have a flag.
    """

    def flag(match: re.Match[str]) -> str:
        return _flag(match[1]) if match[1] in names else match[0]

    return re.sub(r"`(\w+)`", flag, message)


def table_name(cls: type) -> str:
    """The table of a settings class: "training" for `TrainingSettings`."""
    return cls.__name__.removesuffix("Settings").lower()


def make_settings(cls: type[S], table: Mapping[str, Any], said: Mapping[str, Any], file: Path | None = None) -> S:
    """Settings from a TOML table and from flags.

    Args:
        cls: a settings class.
        table: its table in the file.
        said: values of flags; None and empty sequences where a flag was not given.
        file: where the table stands, for messages.

    Raises:
        OptionError: the table has an unknown key, or a value is not accepted.
    """
    hints = typing.get_type_hints(cls)
    where = f"[{table_name(cls)}]" + (f" of {file}" if file else "")
    if unknown := [key for key in table if key not in hints]:
        near = difflib.get_close_matches(unknown[0], hints, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        if unknown[0] in _RETIRED:
            hint = f" It is now {_RETIRED[unknown[0]]}."
        raise OptionError(
            f"The table {where} has the key {unknown[0]!r}, which is not known.{hint} Accepted are {', '.join(hints)}."
        )
    values = {key: _converted(value, hints[key], f"{key!r} in {where}") for key, value in table.items()}
    for key, value in said.items():
        if value not in _NOTHING_SAID:
            values[key] = _converted(_parsed(value, hints[key], _flag(key)), hints[key], _flag(key))
    return cls(**values)


def read_tables(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a TOML file.

    Raises:
        OptionError: it cannot be read, or holds something other than known tables.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} cannot be read as TOML: {error}") from error
    known = {table_name(cls) for cls in settings_classes()}
    for name, table in tables.items():
        if name not in known or not isinstance(table, dict):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean [{near[0]}]?" if near else ""
            raise OptionError(
                f"{path} has {name!r}, which is no table of hairify.{hint} The tables are "
                f"{', '.join(f'[{one}]' for one in sorted(known))}."
            )
    return tables


def settings_classes() -> list[type]:
    """All settings classes: one file may have tables for several commands."""
    from hairify.ablation._settings import AblationSettings
    from hairify.data._settings import DataSettings
    from hairify.evaluation._settings import EvaluationSettings
    from hairify.networks._named import NetworkSettings
    from hairify.report._settings import ReportSettings
    from hairify.restoring._settings import GuidanceSettings, RestoringSettings, TilingSettings, VideoSettings
    from hairify.serving._settings import ServingSettings
    from hairify.training._settings import StartSettings, TrainingSettings

    return [
        NetworkSettings,
        StartSettings,
        DataSettings,
        TrainingSettings,
        TilingSettings,
        RestoringSettings,
        VideoSettings,
        GuidanceSettings,
        ServingSettings,
        EvaluationSettings,
        AblationSettings,
        ReportSettings,
    ]


def to_toml(*settings: Any) -> str:
    """Settings as a TOML file that `--config` reads; fields without a value are left out."""
    tables = {
        table_name(type(one)): {
            field.name: plain
            for field in dataclasses.fields(one)
            if (plain := _plain(getattr(one, field.name))) is not None
        }
        for one in settings
    }
    return tomli_w.dumps(tables)


@functools.cache
def _options(cls: type) -> tuple[inspect.Parameter, ...]:
    """The parameters from which typer makes the flags of a settings class, of which several commands have some."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return tuple(_option(cls, field, hints[field.name]) for field in dataclasses.fields(cls))


def _option(cls: type, field: dataclasses.Field[Any], annotated: Any) -> inspect.Parameter:
    """The parameter from which typer makes a field's flag.

    Args:
        cls: a settings class.
        field: one of its fields.
        annotated: the field's type, with its text.
    """
    help_text = next(one.documentation for one in annotated.__metadata__ if isinstance(one, Doc))
    kind = _without_none(annotated.__origin__)
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    flag = _flag(field.name)
    how: dict[str, Any] = {"show_default": False}  # all are None to typer, so that it shows what was said
    given: Any = kind | None
    flags = [flag]
    if get_origin(kind) is tuple and get_args(kind)[0] is Path:
        given, how["metavar"] = list[Path], "PATH"
        help_text = f"{help_text} (may be given several times)"
    elif repeated := field.metadata.get(REPEATED):
        given, how["metavar"] = list[str], repeated
        help_text = f"{help_text} (may be given several times)"
    elif get_origin(kind) is tuple:
        given, help_text = str | None, f"{help_text} (separated by commas)"
    elif _is_mapping(kind):
        given, how["metavar"] = list[str], "NAME=VALUE"
        help_text = f"{help_text} (may be given several times)"
    elif kind is bool:
        flags = [f"{flag}/--no-{flag.removeprefix('--')}"]
    elif kind is Path:
        how["metavar"] = "PATH"
    if shown := _shown(default):
        help_text = f"{help_text} (default: {shown})"
    option = typer.Option(*flags, help=help_text, rich_help_panel=f"{table_name(cls).capitalize()} options", **how)
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[given, option]
    )


def _flag(name: str) -> str:
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


def _parsed(value: Any, kind: Any, flag: str) -> Any:
    """A flag's value as TOML would have it."""
    kind = _without_none(kind)
    if get_origin(kind) is tuple and isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if _is_mapping(kind):
        return dict(_name_and_value(text, flag) for text in value)
    return value


def _name_and_value(text: str, flag: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise OptionError(f"{flag} takes NAME=VALUE, such as {_EXAMPLES.get(flag, 'noise=3')}; got {text!r}.")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value  # a word without quotes


def _converted(value: Any, kind: Any, where: str) -> Any:
    """A value in the type of its field.

    Raises:
        OptionError: the value has another type.
    """
    kind = _without_none(kind)
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    if get_origin(kind) is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_converted(one, get_args(kind)[0], where) for one in value)
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    if _is_mapping(kind) and isinstance(value, Mapping):
        _, of_values = get_args(kind)
        if of_values is Any:
            return dict(value)
        return {name: _converted(one, of_values, f"{name!r} of {where}") for name, one in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (int, float) and isinstance(value, str):
        try:
            return kind(value)
        except ValueError:
            pass
    if isinstance(kind, type) and get_origin(kind) is None and type(value) is kind:
        return value
    raise OptionError(f"{where} is {value!r}; accepted is {_words(kind)}.")


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(repr(one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list, each {_words(get_args(kind)[0])}"
    if _is_mapping(kind):
        return "a table"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", Path: "a path"}
    return names.get(kind, str(kind))


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (typing.Union, types.UnionType):
        return next(one for one in get_args(kind) if one is not type(None))
    return kind


def _is_mapping(kind: Any) -> bool:
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _shown(default: Any) -> str | None:
    if default in (None, (), {}):
        return None
    if isinstance(default, bool):
        return "on" if default else "off"
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items() if one is not None}
    return value
