"""Packages whose names are imported on demand show what they would show otherwise."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import hairify
from hairify._support.on_demand import on_demand

PACKAGES = [
    ".".join(path.parent.relative_to(Path(hairify.__file__).parents[1]).parts)
    for path in sorted(Path(hairify.__file__).parent.rglob("__init__.py"))
    if "on_demand(" in path.read_text(encoding="utf-8")
]


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> ModuleType:
    if request.param != "hairify":
        # Their names' modules import what the tools need; the core's tests run without it.
        pytest.importorskip("imagecodecs", reason="needs hairify[tool]")
    return importlib.import_module(request.param)


def test_there_are_such_packages() -> None:
    assert {"hairify", "hairify.training"} <= {*PACKAGES}


def test_type_checkers_see_the_names_that_are_found(package: ModuleType) -> None:
    tree = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        seen |= {alias.name: importlib.import_module(str(node.module)) for alias in node.names}
    assert seen.keys() == {*package.__all__}
    for name, home in seen.items():
        assert getattr(package, name) is getattr(home, name)


def test_all_names_are_listed(package: ModuleType) -> None:
    assert {*package.__all__} <= {*dir(package)}


def test_all_names_are_imported_by_a_star(package: ModuleType) -> None:
    found: dict[str, object] = {}
    exec(f"from {package.__name__} import *", found)
    assert {*package.__all__} <= found.keys()


def test_an_unknown_name_is_an_ordinary_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        _ = package.nothing
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec(f"from {package.__name__} import nothing")


def test_modules_are_found_as_if_they_had_been_imported() -> None:
    code = "import hairify; print(hairify.nn.MomentsDAC.__name__, hairify.errors.HairError is hairify.HairError)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["MomentsDAC", "True"]


def test_a_name_is_looked_up_once() -> None:
    find, names = on_demand("hairify._support", {"counting": ("count",)}, modules=("nearest",))
    support = importlib.import_module("hairify._support")
    vars(support).pop("count", None)
    assert {"count", "nearest"} <= {*names()}
    found = find("count")
    assert vars(support).pop("count") is found
    assert find("nearest") is importlib.import_module("hairify._support.nearest")
