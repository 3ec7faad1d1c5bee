"""The documentation is true: its examples run and print what they say, its names and signatures are the code's."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import importlib.metadata
import inspect
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import commands_page
import layouts
import pytest
import skimage
import torch
import typer.main
from PIL import Image
from reference import SMALL, as_published

import hairify
import hairify.errors
import hairify.functional
import hairify.models
from hairify.cli import main
from hairify.cli._app import app
from hairify.cli.options import make_settings, read_tables, settings_classes, table_name, to_toml
from hairify.data.datasets import DataSettings
from hairify.networks import NetworkSettings
from hairify.planning import Level
from hairify.restoring import KnownGIV, KnownGIVs
from hairify.sharing import Restorer, save_pretrained

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
API = DOCS / "api.md"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
WITH_CODE = [page for page in PAGES if re.search("^```(python|bash|toml)$", page.read_text(encoding="utf-8"), re.M)]

HEAVY = [
    ROOT / "README.md",
    *(DOCS / name for name in ("algorithm.md", "api.md", "configuration.md", "index.md", "networks.md")),
    *(DOCS / name for name in ("tutorial.md", "workflows.md")),
    *(DOCS / "how-to" / f"{name}.md" for name in ("ablations", "data", "evaluation", "export", "fine-tuning", "giv")),
    *(DOCS / "how-to" / f"{name}.md" for name in ("many-gpus", "own-dac", "second-stages", "sharing")),
]
EXPORTED_WHOLE = (DOCS / "tutorial.md", DOCS / "how-to" / "export.md")
TO_RUN = [pytest.param(page, marks=[pytest.mark.slow] * (page in HEAVY)) for page in WITH_CODE]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a block prints, line by line: `print(x)  # -> 1` at the end of a line of code, or lines of their own.
PRINTED = re.compile(r"(?:^|  )# ->(?: (.*))?$", re.MULTILINE)
# A block that begins with the name of a file is the content of that file.
FILE = re.compile(r"# ([\w/-]+\.(?:py|toml))\n")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

# Put after what the pages say, and so in its place: their trainings take minutes to days, and exporting takes long.
QUICK = shlex.split("--steps 3 --batch-size 2 --patch-size 32 --workers 0 --validate-every 0 --log-with none --cpu")
APPENDED = {
    "train": QUICK,
    "ablate": [*QUICK, *shlex.split("--steps 1 --seeds 1 --degradations noise25")],
    "report": shlex.split("--givs-per-degradation 4 --giv-crop 64 --composites haze+noise25"),
    "export": shlex.split("--size 64x64"),
}
BAKED = shlex.split("--bake photograph.jpg")  # of all restorers the quickest to export
# Where a page trains a network in its published size, that of a small one; of a checkpoint, the checkpoint's.
BRACKETS = str.maketrans("()", "[]")  # a tuple as TOML has it
SMALLEST = SMALL | {"num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1}


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> Iterator[tuple[int, str, str]]:
    """Line number, language and text of every fenced block in some languages."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        if match[1] in languages:
            yield text[: match.start()].count("\n") + 2, match[1], match[2]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in; modules that the pages put there are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (tmp_path / f"{name}.py").is_file():
            del sys.modules[name]


@pytest.mark.parametrize("page", TO_RUN, ids=identify)
def test_every_example_runs_and_prints_what_it_says(
    page: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(as_published(hairify.models.res_hair(**SMALL, init="random")), "res-hair.ckpt")
    commands = "".join(source for _, _, source in blocks(page, "bash"))
    if "hairify " in commands:
        give_data(workplace)
    if "--output run" not in commands:
        give_run(workplace / "run")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    outputs: dict[int, list[str]] = {}
    for line, language, source in blocks(page, "python", "bash", "toml", "text"):
        where = f"{identify(page)}, block from line {line}"
        if file := FILE.match(source):
            Path(file[1]).write_text(source, encoding="utf-8")
            importlib.invalidate_caches()
        if language == "python":
            # Padded with empty lines, so that a traceback shows the line within the page.
            code = compile("\n" * (line - 1) + source, str(page), "exec")
            run_code(code, namespace, [match[1] or "" for match in PRINTED.finditer(source)], where)
        elif language == "toml":
            check_configuration(source)
        elif language == "bash":
            outputs[line + source.count("\n") + 3] = [
                run_command(words, page, capsys) for words in command_lines(source)
            ]
        elif line in outputs:  # right after commands: what they print
            assert "".join(outputs[line]).split("\n") == source.split("\n"), where


def run_code(code: Any, namespace: dict[str, Any], said: list[str], where: str) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    got = "\n".join(text.rstrip() for text in printed.getvalue().splitlines())
    assert got == "\n".join(said), f"{where}, prints something else than it says"


def check_configuration(source: str) -> None:
    path = Path("checked.toml")
    path.write_text(source, encoding="utf-8")
    tables = read_tables(path)
    assert tables
    for cls in settings_classes():
        make_settings(cls, tables.get(table_name(cls), {}), {})


def command_lines(source: str) -> Iterator[list[str]]:
    """The words of each command in a block; a backslash at the end of a line joins it with the next."""
    for line in source.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words[: words.index(">")] if ">" in words else words  # into which file it goes is the shell's matter


def run_command(words: Sequence[str], page: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command of hairify's prints; of others, what can be told without running them is checked."""
    program, *rest = words
    if program != "hairify":
        check_other(program, rest)
        return ""
    if rest[0] == "push":  # needs the network
        check_words(rest)
        return ""
    status = main([*rest, *appended(rest, page)])
    printed = capsys.readouterr()
    assert status == 0, f"{identify(page)}: {shlex.join(words)}\n{printed.out}\n{printed.err}"
    return printed.out


def appended(words: Sequence[str], page: Path) -> list[str]:
    """What makes a command quick; of options that are given twice the second counts."""
    command = words[0]
    if command == "export" and words[-1].endswith(".safetensors"):
        return []
    more = list(APPENDED.get(command, []))
    if command in ("train", "ablate") and not {"--option", "--config", "--resume", "--from"} & {*words}:
        size = SMALL if "--weights" in words else SMALLEST
        more += [word for name, value in size.items() for word in ("--option", f"{name}={value}".translate(BRACKETS))]
    if command == "export" and page not in EXPORTED_WHOLE:
        more += BAKED
    return more


def check_words(words: Sequence[str]) -> None:
    """Whether hairify takes these words: the command and its options exist, and nothing that it needs is missing."""
    group: Any = typer.main.get_command(app)
    group.commands[words[0]].make_context(words[0], list(words[1:]))


def check_other(program: str, words: Sequence[str]) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    if program == "pip":
        for extras in re.findall(r"\[(.*)\]", words[-1]):
            assert all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras.split(",")), extras
    elif program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), words
    elif program == "python":
        file = words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0]
        assert (ROOT / file).is_file() or (ROOT / words[1] / "__main__.py").is_file(), words
    elif program in ("accelerate", "torchrun"):
        check_words(words[words.index("hairify") + 1 :])
    else:
        assert importlib.metadata.entry_points(group="console_scripts", name=program), program


def give_data(folder: Path) -> None:
    """What the pages take as given: photographs, and data sets in their layouts, all tiny."""
    (folder / "photographs").mkdir()
    (folder / "holiday").mkdir()
    for name in ("astronaut", "chelsea", "coffee", "motorcycle_left", "motorcycle_right", "ihc"):
        picture = Image.open(str(files(skimage) / "data" / f"{name}.png"))
        picture.thumbnail((96, 96))
        picture.save(folder / "photographs" / f"{name}.png")
    for name in ("holiday/beach.jpg", "portrait.tif", "photograph.jpg"):
        layouts.write(folder / name, layouts.pixels(name, 88, 120))
    for name in ("BSD400", "WED", "BSD68", "Urban100", "Rain100L", "OTS", "SOTS", "GoPro", "LOL-v1"):
        layouts.build(name, folder / "datasets")


def give_run(folder: Path) -> None:
    """What a training leaves, for pages that begin with one."""
    small = {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1}
    settings = NetworkSettings(options=small), DataSettings(data=(Path("photographs"),))
    model = settings[0].restorer(seed=0)
    giv_dim = model.plan.giv_dim
    givs = KnownGIVs({name: KnownGIV((at,) * giv_dim, 1.0) for name, at in (("noise25", 0.5), ("clean", 0.0))})
    restorer = Restorer(model, settings[0].named(), multiple=8, givs=givs)
    save_pretrained(restorer, folder / "model")
    (folder / "config.toml").write_text(to_toml(*settings), encoding="utf-8")


def test_the_examples_are_found() -> None:
    assert {identify(page) for page in WITH_CODE} >= {"README.md", "docs/algorithm.md", "docs/tutorial.md"}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("```python") == len(list(blocks(ROOT / "README.md", "python"))) > 5
    assert PRINTED.findall("print(1)  # -> 1\n# ->\n# ->  two\n'# -> no'") == ["1", "", " two"]
    assert list(command_lines("a b \\\n  'c d'  # e\n\nf")) == [["a", "b", "c d"], ["f"]]


def test_the_page_of_commands_is_that_of_the_commands() -> None:
    page = DOCS / "commands.md"
    assert page.read_text(encoding="utf-8") == commands_page.page(), "write it anew: make commands-page"


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_commands_that_are_shown_only_are_accepted(page: Path) -> None:
    for _, _, source in blocks(page, "text"):
        if source.startswith("hairify "):
            for program, *words in command_lines(source):
                check_words(words) if program == "hairify" else check_other(program, words)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_scripts_are_bash_and_their_commands_are_accepted() -> None:
    scripts = [source for page in PAGES for _, _, source in blocks(page, "sh")]
    assert scripts
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), script
        for words in re.findall(r'words="([^"]*)"', script):  # of `train`
            check_words(["train", *words.split()])


def test_every_page_is_in_the_contents() -> None:
    contents = re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert sorted(contents) == [path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*.md"))]


def test_what_the_reference_shows_exists() -> None:
    shown = [name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M)]
    assert shown
    for name in shown:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute) or importlib.import_module(name)


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
    code += "\n".join(text for _, _, text in blocks(API, "text"))
    words = set(re.findall(r"\w+", code))
    assert names, f"{owner} has no public names"
    assert not [name for name in names if name not in words]


def signatures() -> list[str]:
    """One starts on every line that is not indented."""
    return [one.strip() for _, _, text in blocks(API, "text") for one in re.split(r"\n(?=\S)", text)]


@pytest.mark.parametrize("documented", signatures(), ids=lambda text: text.partition("(")[0])
def test_signatures_are_those_of_the_code(documented: str) -> None:
    name, _, rest = documented.partition("(")
    module, _, attribute = name.rpartition(".")
    owner = {"HairModel": hairify.HairModel, "Plan": hairify.Plan}.get(module) or getattr(
        hairify, module.removeprefix("hairify").lstrip("."), hairify
    )
    found = getattr(owner, attribute)
    if isinstance(found, property):  # a method that shows another signature on each instance
        found = inspect.getclosurevars(found.fget).nonlocals["function"]
    function = inspect.signature(found)
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


def test_the_map_for_contributors_has_every_room_and_names_only_what_exists() -> None:
    text = (DOCS / "contributing.md").read_text(encoding="utf-8")
    rooms = {path.name for path in (ROOT / "hairify").iterdir() if (path / "__init__.py").is_file()}
    rooms |= {path.stem for path in (ROOT / "hairify").glob("*.py") if not path.stem.startswith("__")}
    assert rooms == set(re.findall(r"^\| `hairify\.(\w+)` \|", text, re.MULTILINE))
    for path in re.findall(r"`([\w/]+(?:\.py|/))`", text):
        assert (ROOT / "hairify" / path).exists() or (ROOT / path).exists() or (ROOT / "hairify/cli" / path).exists(), (
            path
        )


def test_successors_in_the_changelog_can_be_imported() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    successors = re.findall(r"^  \| .*\| `([\w.]+)` \|$", text, re.MULTILINE)
    assert len(successors) > 8
    assert all(map(leads_somewhere, successors))


def test_paths_in_texts_lead_somewhere() -> None:
    """`hairify.x.y` and `hairify/x.py` in pages, docstrings and comments; the changelog tells of what was before."""
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]
    sources = [path for room in ("hairify", "benchmarks", "examples", "tests") for path in (ROOT / room).rglob("*.py")]
    lost = []
    for path in {*pages, *sources} - {Path(__file__)}:
        text = path.read_text(encoding="utf-8")
        lost += [f"{path}: {n}" for n in re.findall(r"`(hairify(?:\.\w+)+)[`(]", text) if not leads_somewhere(n)]
        files = re.findall(r"(?<![\w./])((?:hairify|tests|benchmarks|examples)/[\w/]+\.py)\b", text)
        lost += [f"{path}: {name}" for name in files if not (ROOT / name).is_file()]
    assert not lost


def leads_somewhere(name: str) -> bool:
    """Whether a dotted name is that of a module, or of what is in one."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:i]))
        except ImportError:
            continue
        for part in parts[i:]:
            if not hasattr(found, part):
                return part in getattr(found, "__annotations__", {})
            found = getattr(found, part)
        return True
    return False
