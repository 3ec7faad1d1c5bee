"""The documentation is true: its examples run and print what they say, its names and signatures are the code's."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import SMALL, as_published

import hairify
import hairify.errors
import hairify.functional
import hairify.models
from hairify.plan import Level

ROOT = Path(__file__).parents[1]
API = ROOT / "docs" / "api.md"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_CODE = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a block prints, line by line: `print(x)  # -> 1` at the end of a line of code, or lines of their own.
PRINTED = re.compile(r"(?:^|  )# ->(?: (.*))?$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """Line number and text of every fenced block in a language."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        if match[1] == language:
            yield text[: match.start()].count("\n") + 2, match[2]


@pytest.mark.parametrize("page", WITH_CODE, ids=identify)
def test_every_example_runs_and_prints_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(as_published(hairify.models.res_hair(**SMALL, init="random")), "res-hair.ckpt")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for line, source in blocks(page, "python"):
        said = [match[1] or "" for match in PRINTED.finditer(source)]
        printed = io.StringIO()
        # Padded with empty lines, so that a traceback shows the line within the page.
        code = compile("\n" * (line - 1) + source, str(page), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        got = "\n".join(text.rstrip() for text in printed.getvalue().splitlines())
        assert got == "\n".join(said), f"{identify(page)}, block from line {line}, prints something else than it says"


def test_the_examples_are_found() -> None:
    assert {identify(page) for page in WITH_CODE} >= {"README.md", "docs/algorithm.md", "docs/api.md"}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("```python") == len(list(blocks(ROOT / "README.md", "python"))) > 5
    assert PRINTED.findall("print(1)  # -> 1\n# ->\n# ->  two\n'# -> no'") == ["1", "", " two"]


def documented_members(cls: type) -> list[str]:
    """Public methods, properties and dataclass fields that a class defines itself."""
    fields = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
    return [*fields, *(name for name, value in vars(cls).items() if not name.startswith("_") and name not in fields)]


def names_to_document() -> dict[str, list[str]]:
    errors = [name for name, value in vars(hairify.errors).items() if inspect.isclass(value)]
    return {
        "hairify": hairify.__all__,
        "hairify.models": hairify.models.__all__,
        "hairify.functional": hairify.functional.__all__,
        "hairify.errors": errors,
        "HairModel": documented_members(hairify.HairModel),
        "Plan": documented_members(hairify.Plan),
        "Level": documented_members(Level),
    }


@pytest.mark.parametrize("owner", names_to_document())
def test_every_public_name_is_in_the_api_page(owner: str) -> None:
    names = names_to_document()[owner]
    # Names count where they stand as code: in a heading, a signature or between backticks.
    code = "\n".join(re.findall(r"`([^`\n]+)`", API.read_text(encoding="utf-8")))
    code += "\n".join(text for _, text in blocks(API, "text"))
    words = set(re.findall(r"\w+", code))
    assert names, f"{owner} has no public names"
    assert not [name for name in names if name not in words]


def signatures() -> list[str]:
    """One starts on every line that is not indented."""
    return [one.strip() for _, text in blocks(API, "text") for one in re.split(r"\n(?=\S)", text)]


@pytest.mark.parametrize("documented", signatures(), ids=lambda text: text.partition("(")[0])
def test_signatures_are_those_of_the_code(documented: str) -> None:
    name, _, rest = documented.partition("(")
    module, _, attribute = name.rpartition(".")
    owner = {"HairModel": hairify.HairModel, "Plan": hairify.Plan}.get(module) or getattr(
        hairify, module.removeprefix("hairify").lstrip("."), hairify
    )
    function = inspect.signature(getattr(owner, attribute))
    stub = ast.parse(f"def stub({rest}: ...").body[0]
    assert isinstance(stub, ast.FunctionDef)
    assert stub.returns is not None
    assert ast.unparse(stub.returns) == str(function.return_annotation).removeprefix("torch.fx.")
    namespace: dict[str, Any] = {}
    exec(f"def stub({rest.rpartition('->')[0]}: ...", namespace)
    expected = [p.replace(annotation=p.empty) for p in function.parameters.values() if p.name not in ("self", "cls")]
    assert list(inspect.signature(namespace["stub"]).parameters.values()) == expected


def test_there_is_a_signature_for_every_public_function() -> None:
    documented = {text.partition("(")[0] for text in signatures()}
    public = {"hairify": hairify, "hairify.models": hairify.models, "hairify.functional": hairify.functional}
    for owner, module in public.items():
        functions = {f"{owner}.{name}" for name in module.__all__ if inspect.isfunction(getattr(module, name))}
        assert functions <= documented
    methods = {f"HairModel.{n}" for n, v in vars(hairify.HairModel).items() if n[0] != "_" and inspect.isfunction(v)}
    assert methods - {"HairModel.extra_repr"} <= documented


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_relative_links_point_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{identify(page)} links to {link}, which does not exist"
        if fragment:
            assert fragment in headings(target), f"{identify(page)} links to {link}: no such heading"


def headings(page: Path) -> set[str]:
    """The fragments that GitHub gives the headings of a page."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
