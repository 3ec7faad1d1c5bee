"""docs/commands.md, out of the command line itself: python tests/helpers/commands_page.py docs/commands.md."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from inspect import Parameter
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from typer.models import ArgumentInfo, CommandInfo, OptionInfo

from hairify.cli._app import app
from hairify.cli.options import CONFIG, settings_classes, table_name

INTRODUCTION = """\
# Commands

What `hairify COMMAND --help` tells, on one page; `make commands-page` writes it. Besides options of its own, a command
takes those of some groups of [settings](#settings).
"""
SETTINGS = """\
## Settings

The options of each group are also the keys of a table in the file that `--config` names: `--patch-size` is `patch_size`
in `[data]`. [Configuration](configuration.md) tells more.
"""
VALUES = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}
EXAMPLES = re.compile(r"\[dim\](.*?)\[/dim\]", re.DOTALL)


def page() -> str:
    """The text of docs/commands.md."""
    sections = map(command_section, app.registered_commands)
    return "\n".join([INTRODUCTION, *sections, SETTINGS, *map(settings_section, settings_classes())])


def command_section(command: CommandInfo) -> str:
    text = inspect.cleandoc(command.help or "")
    parts = [f"## hairify {command.name}", EXAMPLES.sub("", text).strip()]
    parts += [f"```text\n{examples}\n```" for examples in EXAMPLES.findall(text)]
    params = parameters(command)
    parts.append(table(param for param in params if panel(param) is None and param.name != CONFIG))
    if panels := dict.fromkeys(filter(None, map(panel, params))):
        links = ", ".join(f"[{name}](#{name}-settings)" for name in panels)
        parts.append(f"Settings: {links}. `--config FILE` reads them from a file.")
    return "\n\n".join(parts) + "\n"


def settings_section(cls: type) -> str:
    params = {
        param.name: param
        for command in app.registered_commands
        for param in parameters(command)
        if panel(param) == table_name(cls)
    }
    fields = table(params[name] for name in inspect.signature(cls).parameters)
    return f"### {table_name(cls).capitalize()} settings\n\n{fields}\n"


def parameters(command: CommandInfo) -> list[Parameter]:
    """A command's arguments and options, each with typer's description in its annotation."""
    assert command.callback is not None
    return list(inspect.signature(command.callback).parameters.values())


def panel(param: Parameter) -> str | None:
    """The table of the settings that an option belongs to; None for those of the command itself."""
    title = described(param)[1].rich_help_panel
    return title.removesuffix(" options").lower() if title else None


def table(params: Iterable[Parameter]) -> str:
    rows = [f"| `{words(param)}` | {meaning(param)} |" for param in params]
    return "\n".join(["| option | meaning |", "|---|---|", *rows])


def words(param: Parameter) -> str:
    """What is written on the command line."""
    kind, info = described(param)
    if isinstance(info, ArgumentInfo):
        return str(info.metavar)
    # Typer takes the first of the names for the default, until it has seen that they stand in an annotation.
    flags = [name for name in (info.default, *(info.param_decls or ())) if isinstance(name, str)]
    written = ", ".join(flags or [f"--{param.name.replace('_', '-')}"]).replace("/", ", ")
    if kind is bool:
        return written
    value = info.metavar or VALUES.get(kind) or " or ".join(get_args(kind))  # else a Literal
    return f"{written} {value}"


def meaning(param: Parameter) -> str:
    _, info = described(param)
    if param.default is Parameter.empty:
        return f"{info.help} (required)"
    nothing = param.default is None or param.default is False
    return str(info.help) if nothing else f"{info.help} (default: {param.default})"


def described(param: Parameter) -> tuple[Any, OptionInfo | ArgumentInfo]:
    """The type of a parameter, None aside, and its description."""
    given, info = get_args(param.annotation)
    kinds = [kind for kind in get_args(given) if kind is not NoneType]
    return (kinds[0] if NoneType in get_args(given) else given), info


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
