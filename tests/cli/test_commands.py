"""The command line's manners: help, exit statuses, messages. What the commands do is tested by test_journey."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import layouts
import PIL.Image
import pytest
import torch
from util import perturb

from hairify import HairModel
from hairify.cli import main
from hairify.data._image import Image
from hairify.data.images import write
from hairify.networks import NetworkSettings
from hairify.restoring import KnownGIV, KnownGIVs
from hairify.sharing import Restorer, save_pretrained

SMALL = ["--option", "dim=8", "--option", "num_blocks=[1,1,1,2]", "--option", "num_refinement_blocks=1"]
COMMANDS = (
    "plan",
    "train",
    "evaluate",
    "look",
    "restore",
    "serve",
    "bake",
    "export",
    "ablate",
    "table",
    "report",
    "push",
    "demo",
)
TRAIN = ["train", *SMALL, "--data", "photographs", "--output", "run", "--cpu", "--workers", "0", "--batch-size", "2"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    layouts.photographs(tmp_path / "photographs", count=3, height=72, width=80)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"hairify {command} " in printed
    assert "Options" in printed


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f" {command} " in printed for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["trian"], 2, "No such command 'trian'"),
        (["plan", "--network", "restormr"], 1, "Did you mean 'restormer'?"),
        (["train", "--lr", "1e-4"], 2, "No such option: --lr. Did you mean --learning-rate?"),
        (["train", "--bs", "8"], 2, "Did you mean --batch-size?"),
        (["train", "--learning-rte", "1"], 2, "Did you mean --learning-rate or"),
        (["train", "--no-tensorboard"], 2, "Did you mean --log-with none?"),
        (["train", "--gpus", "8"], 2, "accelerate launch --num_processes 8 -m hairify"),
        (["evaluate", "run", "--lr", "8"], 2, "No such option: --lr."),
        (["plan", "--box-size", "many"], 2, "'--box-size'"),
        (["plan", "--config", "nothing.toml"], 2, "nothing.toml cannot be read as TOML"),
        (["train", "--output", "run"], 1, "--data is empty"),
        ([*TRAIN, "--degradations", "hail"], 2, "hail"),
        ([*TRAIN, "--network", "res_hair", "--no-convert"], 2, "--convert is off"),
        ([*TRAIN, "--resume"], 1, "no checkpoint"),
        (["evaluate", "nowhere"], 1, "nowhere is no folder of a restorer"),
        (["restore", "photographs", "--model", "nowhere", "--output", "restored"], 1, "is no folder of a restorer"),
        (["report", "photographs"], 1, "is no folder of a restorer"),
        (["ablate", "--network", "res_hair", "--output", "ablation"], 2, "starts from the network before"),
        (["demo", "--photographs", "9"], 2, "'--photographs'"),
    ],
)
def test_what_is_wrong_is_said(words: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == status
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_run_is_not_overwritten(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TRAIN, "--steps", "1", "--patch-size", "64", "--degradations", "noise25", "--validate-every", "0"]
    assert main(words) == 0
    config = (home / "run" / "config.toml").read_text()
    assert main([*words, "--seed", "5"]) == 1
    assert "holds a run already" in " ".join(capsys.readouterr().err.split())
    assert (home / "run" / "config.toml").read_text() == config


@pytest.mark.slow
def test_a_run_takes_all_its_settings_from_the_file_it_writes(home: Path) -> None:
    words = [*TRAIN, "--steps", "1", "--patch-size", "64", "--degradations", "noise25", "--validate-every", "0"]
    assert main(words) == 0
    assert main(["train", "--config", "run/config.toml", "--output", "again"]) == 0
    assert (home / "again" / "config.toml").read_text() == (home / "run" / "config.toml").read_text()
    models = [(home / name / "model" / "model.safetensors").read_bytes() for name in ("run", "again")]
    assert models[0] == models[1]


NETWORKS = """
import itertools
import torch
from torch import nn

numbers = itertools.count(4)

class Net(nn.Module):
    def __init__(self, width=4, when=None):
        super().__init__()
        self.odd = self.make_odd()
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.body = nn.Sequential(*(nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()) for _ in range(4)))
    def make_odd(self): return None
    def between(self, x): return x
    def forward(self, x): return x + self.last(self.body(self.between(self.first(x))))

class OneSize(Net):
    def make_odd(self): return nn.Parameter(torch.zeros(4, 64, 64))
    def between(self, x): return x + self.odd

class UpTo(Net):
    def make_odd(self): return nn.Parameter(torch.zeros(4, 96, 96))
    def between(self, x): return x + self.odd[:, : x.shape[2], : x.shape[3]]

class Squares(Net):
    def between(self, x): return x @ x.transpose(2, 3) @ x if x.shape[2] == x.shape[3] else x @ x

class Complex(Net):
    def make_odd(self): return nn.Parameter(torch.ones(4, 1, 1, dtype=torch.cfloat))
    def between(self, x): return torch.fft.irfft2(torch.fft.rfft2(x) * self.odd, s=x.shape[-2:])

class Double(Net):
    def make_odd(self): return nn.Parameter(torch.ones((), dtype=torch.float64))
    def between(self, x): return x * self.odd.float()

class Sevens(Net):
    def between(self, x): return nn.functional.pixel_shuffle(nn.functional.pixel_unshuffle(x, 7), 7)

def another_each_time(): return Net(next(numbers))
"""
OWN = ["train", "--data", "photographs", "--degradations", "noise25", "--steps", "2", "--batch-size", "2", "--workers"]
OWN += ["0", "--log-with", "none", "--cpu", "--output", "run"]


@pytest.fixture
def own_networks(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (home / "own_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(home)
    yield
    sys.modules.pop("own_networks", None)


@pytest.mark.parametrize("convert", [True, False])
@pytest.mark.parametrize(
    ("name", "patch", "message"),
    [
        ("OneSize", 64, "one size only, 64×64 pixels"),
        ("UpTo", 64, "but not of 259×257"),
        ("Squares", 32, "squares only"),
        ("Net --option when=2024-01-01", 32, "without a restorer that can be opened: The options of"),
        ("another_each_time", 32, "without a restorer that can be opened: "),
        ("Sevens", 32, "cannot be trained on patches of 32×32 pixels"),
    ],
)
def test_a_run_that_cannot_end_well_does_not_begin(
    own_networks: None,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    patch: int,
    message: str,
    convert: bool,
) -> None:
    network = ["--network", *f"own_networks:{name}".split(), "--patch-size", str(patch)]
    assert main([*OWN, *network, *(() if convert else ["--no-convert"])]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (home / "run" / "log.jsonl").exists()
    assert not list(home.glob("run/*"))


@pytest.mark.parametrize("convert", [True, False])
@pytest.mark.parametrize(("name", "patch"), [("Complex", 32), ("Double", 32), ("Sevens", 35)])
def test_a_finished_run_has_a_restorer(own_networks: None, home: Path, name: str, patch: int, convert: bool) -> None:
    network = ["--network", f"own_networks:{name}"]
    words = [*OWN, *network, "--patch-size", str(patch), "--validate-every", "1", "--save-every", "1"]
    assert main([*words, *(() if convert else ["--no-convert"])]) == 0
    assert main(["evaluate", "run", *network]) == 0
    assert main(["restore", "photographs", "--model", "run", *network, "--tile", "56", "--output", "restored"]) == 0
    assert len(list((home / "restored").iterdir())) == 3


@pytest.mark.slow
def test_a_refused_resumption_leaves_the_configuration(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TRAIN, "--steps", "2", "--patch-size", "64", "--degradations", "noise25", "--validate-every", "0"]
    assert main(words) == 0
    config = (home / "run" / "config.toml").read_text()
    assert main(["train", "--output", "run", "--resume", "--batch-size", "4"]) == 1
    assert "--batch-size was 2, is 4" in capsys.readouterr().err
    assert main(["ablate", "--output", "run", "--steps", "1"]) == 2
    assert "run holds a training run" in capsys.readouterr().err
    assert (home / "run" / "config.toml").read_text() == config
    assert main(["train", "--output", "run", "--resume", "--learning-rate", "1e-4"]) == 0
    assert "`learning_rate` was 0.0002, is 0.0001" in capsys.readouterr().out


def test_an_ablation_goes_on_where_a_disk_was_full(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ablate", *TRAIN[1:], "--steps", "1", "--patch-size", "64", "--degradations", "noise25"]
    words += ["--seeds", "1", "--variants", "static", "--log-with", "none"]
    (home / "run" / "runs" / "static-0" / "checkpoints" / ".unfinished").mkdir(parents=True)
    assert main(words) == 0
    config = (home / "run" / "config.toml").read_text()
    assert main([*words, "--weight-decay", "0.5"]) == 1
    assert (home / "run" / "config.toml").read_text() == config


def test_what_holds_no_restorer_is_told_apart(
    own_networks: None, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = ["--network", "own_networks:Net"]
    assert main([*OWN, *network, "--patch-size", "32", "--validate-every", "0", "--save-every", "1"]) == 0
    shutil.move(home / "run" / "model", home / "model")  # as if it were under way
    weights = "model/model.safetensors"
    (home / "alone.pth").touch()
    shutil.copytree(home / "model", home / "several" / "first")
    (home / "ablation" / "runs").mkdir(parents=True)
    (home / "ablation" / "config.toml").touch()
    for given, message in (
        ("run", "training run that has written no restorer yet"),
        ("run/checkpoints", "is opened by run."),
        (weights, "give its folder, model."),
        ("alone.pth", "starts from such files"),
        ("ablation", "that of an ablation"),
        ("several", "Those within it have one: first."),
    ):
        assert main(["restore", "photographs", "--model", given, "--output", "restored"]) == 1
        assert message in " ".join(capsys.readouterr().err.split()), given
    assert main(["train", "--output", "run", "--resume", "--steps", "2"]) == 0
    assert (home / "run" / "model" / "model.safetensors").read_bytes() == (home / weights).read_bytes()


BAD = '''
from own_networks import Net as Plain

class Net(Plain):
    """It fails on images of three sizes, each in its own way; whoever has no others scores nothing."""

    def between(self, x):
        size = tuple(x.shape[2:])
        if size == (40, 48): raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")
        if size == (40, 56): return x / 0
        if size == (48, 40): raise KeyError("a table of windows")
        return x
'''


def bad_photographs(home: Path) -> list[Path]:
    folder = home / "mixed"
    layouts.photographs(folder, count=1, height=72, width=80)
    for name, size in (("memory", (40, 48)), ("infinite", (40, 56)), ("table", (48, 40)), ("tiny", (6, 90))):
        write(Image(torch.rand(3, *size)), folder / f"{name}.png")
    (folder / "text.png").write_text("no image")
    return [folder / f"{name}.png" for name in ("memory", "infinite", "table", "tiny", "text")]


@pytest.mark.parametrize("convert", [True, False])
def test_bad_images_end_nothing(
    own_networks: None, home: Path, capsys: pytest.CaptureFixture[str], convert: bool
) -> None:
    """Those of the test data: each is named once, counted and left out; the exit status tells."""
    (home / "bad_networks.py").write_text(BAD)
    bad, network = bad_photographs(home), ["--network", "bad_networks:Net"]
    data = ["--test-data", "mixed", "--degradations", "noise25,haze"]
    shape = ["--validate-every", "1", "--patch-size", "32", *(() if convert else ["--no-convert"])]
    try:
        assert main([*OWN, *network, *data, *shape]) == 1
        printed = capsys.readouterr().out
        assert all(printed.count(f"left out {home / path}") == 1 for path in bad)
        assert (home / "run" / "model" / "config.json").is_file()
        assert sum("validation" in line for line in (home / "run" / "log.jsonl").read_text().splitlines()) == 2

        assert main(["evaluate", "run", *network]) == 1
        assert "5 image(s) could not be read or restored, and were left out." in capsys.readouterr().out
        results = json.loads((home / "run" / "results.json").read_text())
        assert {name: one["images"] for name, one in results["tasks"].items()} == {"mixed noise25": 1, "mixed haze": 1}
        assert set(results["unreadable"]) == {str(home / path) for path in bad}
        assert ("conditioning" in results) == convert

        assert main(["report", "run", *network]) == int(
            convert
        )  # of a static network it shows less, of the first images
        assert "table.png" in (home / "run" / "report.html").read_text()

        tiles = ["--tile", "32", "--overlap", "8"]  # of that size, only what cannot be read fails
        assert main(["restore", "mixed", "--model", "run", *network, "--output", "restored", *tiles]) == 1
        assert "5 restored, 1 failed" in capsys.readouterr().out
        shutil.rmtree(home / "restored")
        assert main(["restore", "mixed", "--model", "run", *network, "--output", "restored"]) == 1
        assert "2 restored, 4 failed" in capsys.readouterr().out

        for path in home.glob("mixed/0*.png"):  # nothing is left to score
            path.unlink()
        assert main(["train", "--output", "run", "--resume", "--steps", "3"]) == 1
        assert "There are no scores" in capsys.readouterr().out
        assert main(["evaluate", "run", *network]) == 1
        assert "There is nothing to evaluate" in capsys.readouterr().err
    finally:
        sys.modules.pop("bad_networks", None)


def test_a_bad_image_does_not_end_an_ablation(
    own_networks: None, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "bad_networks.py").write_text(BAD)
    bad_photographs(home)
    words = ["ablate", *OWN[1:-1], "ablation", "--network", "bad_networks:Net", "--test-data", "mixed"]
    words += ["--patch-size", "32", "--seeds", "1", "--variants", "static,both"]
    assert main(words) == 1
    sys.modules.pop("bad_networks", None)
    assert capsys.readouterr().out.count("5 image(s) could not be read or restored") == 2
    assert len(json.loads((home / "ablation" / "scores" / "runs.json").read_text())["runs"]) == 2
    assert (home / "ablation" / "ablation.md").is_file()


def test_unreadable_images_are_counted_in_validation(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.photographs(home / "held_out", count=2, height=72, width=80)
    (home / "held_out" / "000.png").write_bytes(b"no image")
    words = [*TRAIN, "--steps", "2", "--patch-size", "64", "--degradations", "noise25", "--test-data", "held_out"]
    assert main([*words, "--validate-every", "1"]) == 1
    assert (home / "run" / "model" / "config.json").is_file()
    printed = capsys.readouterr().out
    assert printed.count(f"left out {home / 'held_out' / '000.png'}") == 1
    assert "1 image(s) could not be read or restored, and were left out." in printed


def test_unreadable_images_to_learn_from_are_named_and_set_the_exit_status(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = home / "photographs" / "bad.png"
    bad.write_bytes(b"no image")
    layouts.photographs(home / "held_out", count=1, height=72, width=80)
    words = [*TRAIN, "--steps", "4", "--patch-size", "64", "--degradations", "noise25", "--test-data", "held_out"]
    assert main([*words, "--validate-every", "0"]) == 1
    assert (home / "run" / "model" / "config.json").is_file()
    assert capsys.readouterr().out.count(f"left out {bad}") == 1


def test_a_module_in_the_current_folder_hides_nothing(home: Path) -> None:
    (home / "typer.py").write_text("raise SystemExit(3)")
    code = "import sys; from hairify.cli import main; sys.exit(main(['plan', '--network', 'restormr']))"
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, "Did you mean 'restormer'" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_lack_of_memory_is_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def lacking(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(NetworkSettings, "build", lacking)
    assert main(["plan"]) == 1
    assert "There is not enough memory" in capsys.readouterr().err


def test_an_interruption_while_a_command_is_imported_ends_it_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hairify.cli._app.app", interrupted)
    assert main(["plan"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


@pytest.fixture
def restorer(home: Path) -> str:
    settings = NetworkSettings(options={"dim": 8, "num_blocks": [1, 1, 1, 2], "num_refinement_blocks": 1})
    save_pretrained(Restorer(settings.restorer(0), settings.named(), 8), home / "restorer")
    return "restorer"


def test_one_bad_file_does_not_stop_the_rest(home: Path, restorer: str, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "photographs" / "001.png").write_bytes(b"no image")
    assert main(["restore", "photographs", "--model", restorer, "--output", "restored", "--device", "cpu"]) == 1
    assert sorted(path.name for path in (home / "restored").iterdir()) == ["000.png", "002.png"]
    assert "2 restored, 1 failed" in capsys.readouterr().out
    assert main(["restore", "photographs/000.png", "--model", restorer, "--output", "restored"]) == 0
    assert "000.png exists; --overwrite replaces it." in capsys.readouterr().out


def test_names_of_files_are_no_markup(home: Path, restorer: str, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "[bold]x[dim].png").write_bytes(b"no image")
    assert main(["restore", "[bold]x[dim].png", "--model", restorer, "--output", "[red]out"]) == 1
    printed = capsys.readouterr().out
    assert "failed [bold]x[dim].png: " in printed
    assert "see [red]out" in printed
    assert main(["report", "[dim]"]) == 1
    assert "[dim]" in capsys.readouterr().err


def test_pages_and_files_that_are_not_read_are_said_and_set_the_exit_status(
    home: Path, restorer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = [PIL.Image.new("RGB", (48, 40), (50 * i, 9, 9)) for i in range(3)]
    (home / "scans").mkdir()
    pages[0].save(home / "scans" / "scan.tif", save_all=True, append_images=pages[1:])
    assert main(["restore", "scans", "--model", restorer, "--output", "restored"]) == 1
    printed = capsys.readouterr().out
    assert "1 restored in part" in printed
    assert "Of its 3 pages or frames" in printed
    (home / "raw").mkdir()
    pages[0].save(home / "raw" / "a.jpg")
    (home / "raw" / "a.CR2").touch()
    assert main(["restore", "raw", "--model", restorer, "--output", "restored"]) == 1
    printed = capsys.readouterr().out
    assert "1 failed, 1 restored" in printed
    assert ".cr2 are not read: develop" in printed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are text there")
def test_names_and_consoles_that_are_no_utf8(home: Path, restorer: str) -> None:
    folder = home / os.fsdecode(b"ph\xe9otos")
    (home / "photographs").rename(folder)
    (folder / "000.png").rename(folder / os.fsdecode(b"a\xe9.png"))
    (folder / "001.png").rename(folder / "\u4e16.PNG")
    (folder / os.fsdecode(b"!\xff.png")).write_bytes(b"damaged")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONPATH": str(Path(__file__).parents[2])}
    training = [*TRAIN, "--data", folder.name, "--steps", "2", "--patch-size", "64", "--degradations", "noise25"]
    training[training.index("--data") : training.index("--data") + 2] = []
    program = (
        "import sys\nfrom hairify.cli import main\n"
        f"assert main({[*training, '--validate-every', '1']!r}) == 1\n"
        f"assert main({['restore', folder.name, '--model', restorer, '--output', 'restored']!r}) == 1\n"
        "assert main(['evaluate', 'run']) == 0\n"
        "assert main(['train', '--output', 'run', '--resume', '--steps', '3', '--cpu']) == 0\n"
        f"assert main({['train', '--data', folder.name, '--output', folder.name]!r}) == 2\n"
        f"assert main({['export', restorer, '--output', folder.name + '.pt2']!r}) == 2\n"
    )
    (home / "program.py").write_bytes(program.encode("utf-8", "backslashreplace"))
    done = subprocess.run([sys.executable, "program.py"], capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    assert b"Traceback" not in done.stderr
    assert rb"!\udcff.png" in done.stdout
    assert sorted(os.listdir(os.fsencode(home / "restored"))) == [b"002.png", b"a\xe9.png", "\u4e16.PNG".encode()]
    assert json.loads((home / "run" / "results.json").read_text(encoding="utf-8"))


def test_what_a_format_cannot_keep_is_said(home: Path, restorer: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(Image(torch.rand(3, 40, 48), alpha=torch.rand(1, 40, 48)), home / "clear.png")
    words = ["restore", "clear.png", "--model", restorer, "--output", "restored", "--output-format", "jpg"]
    assert main(words) == 0
    assert "could not keep: transparency" in capsys.readouterr().out


def test_what_the_library_warns_of_is_said_as_a_note_once(
    home: Path, restorer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "photographs" / "a.nef").touch()
    assert main(["evaluate", restorer, "--test-data", "photographs", "--degradations", "noise25"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("note") == printed.out.count("1 image (a.nef) left out") == 1
    assert "Warning" not in printed.err
    assert main(["evaluate", restorer, "--test-data", "GT", "--degradations", "noise25"]) == 1
    layouts.photographs(home / "pairs" / "GT", 2)
    layouts.photographs(home / "pairs" / "LQ", 2)
    assert main(["evaluate", restorer, "--test-data", "pairs", "--degradations", "noise25"]) == 1
    assert "LQ beside GT" in capsys.readouterr().err


def test_a_restored_image_that_cannot_be_saved_ends_nothing(
    home: Path, restorer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    long = home / "photographs" / f"{'n' * 250}.png"  # with its number, too long a name
    (home / "photographs" / "000.png").rename(long)
    words = ["evaluate", restorer, "--test-data", "photographs", "--degradations", "noise25", "--output", "results"]
    assert main([*words, "--save-images", "restored"]) == 1
    assert "not saved 1 restored image(s), such as restored/photographs noise25/" in capsys.readouterr().out
    results = json.loads((home / "results" / "results.json").read_text())
    assert results["tasks"]["photographs noise25"]["images"] == 3
    assert results["unreadable"] == {}
    assert len(list((home / "restored").rglob("*.png"))) == 2


def test_restored_images_are_kept_each_under_its_own_name(home: Path, restorer: str) -> None:
    for folder, number in (("a", "000"), ("b", "001")):
        (home / "tested" / folder).mkdir(parents=True)
        (home / "photographs" / f"{number}.png").rename(home / "tested" / folder / "same.png")
    words = ["evaluate", restorer, "--test-data", "tested", "--degradations", "noise25", "--save-images", "kept"]
    assert main(words) == 0
    assert len(list((home / "kept").rglob("*.png"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("typer", ["plan"], "tool"),
        ("onnxscript", ["export", "restorer", "--output", "x.onnx"], "export"),
        ("onnxruntime", ["export", "restorer", "--output", "x.onnx", "--check", "photographs"], "export"),
        ("gradio", ["serve", "--model", "restorer"], "serve"),
        ("spandrel", ["plan", "--network", "spandrel", "--weights", "x.pth"], "spandrel"),
    ],
)
def test_a_missing_extra_is_named(module: str, words: list[str], extra: str, restorer: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None\nfrom hairify.cli import main\nsys.exit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"This needs {module}, which is not installed: pip install 'hairify[{extra}]'" in done.stderr


def test_importing_the_library_does_not_import_the_tool() -> None:
    code = (
        "import sys, hairify, hairify.models\n"
        "heavy = {'PIL', 'accelerate', 'huggingface_hub', 'rich', 'skimage', 'sklearn', 'tifffile', 'typer'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


EVALUATE = ["evaluate", "run", "--device", "cpu"]


@pytest.fixture
def a_run(home: Path) -> Path:
    words = ["train", "--network", "unet", "--option", "width=8", *TRAIN[TRAIN.index("--data") :]]
    assert main([*words, "--steps", "1", "--patch-size", "32", "--degradations", "noise25", "--calibration", "2"]) == 0
    return home / "run"


def test_evaluating_elsewhere_leaves_the_cards_numbers(a_run: Path, home: Path, capsys: Any) -> None:
    assert main(EVALUATE) == 0
    card, kept = a_run / "model" / "README.md", (a_run / "results.json").read_bytes()
    assert kept == (a_run / "model" / "results.json").read_bytes()
    before = card.read_bytes()
    assert len((a_run / "results.csv").read_text().splitlines()) == 2
    layouts.photographs(home / "other", count=2, height=40, width=48)
    for words, name in (
        (["--test-data", "other"], "hairify-other"),
        (["--protocol", "promptir"], "promptir"),
        (["--border", "4", "--evaluation-seed", "3"], "hairify-border-4-evaluation_seed-3"),
    ):
        assert main([*EVALUATE, *words]) == 0
        folder = a_run / "evaluations" / name
        assert (folder / "results.json").read_bytes() != kept
        assert {path.name for path in folder.iterdir()} == {"results.json", "results.md", "results.csv"}
        assert "The model card keeps the numbers that it has" in capsys.readouterr().out
    assert main([*EVALUATE, "--protocol", "derain", "--output", "elsewhere"]) == 0
    assert "Y of whole images" in (home / "elsewhere" / "results.md").read_text()
    assert card.read_bytes() == before
    assert (a_run / "results.json").read_bytes() == kept
    assert main([*EVALUATE, "--test-data", "other", "--card"]) == 0
    assert "other noise25" in card.read_text()
    assert main([*EVALUATE, "--no-card"]) == 0
    assert "other noise25" in card.read_text()


def test_a_setting_of_which_sets_are_missing(home: Path, restorer: str, capsys: Any) -> None:
    for name in ("SOTS", "LOL-v1"):
        layouts.build(name, home / "sets")
    words = ["evaluate", restorer, "--test-data", "sets", "--output", "results"]
    assert main([*words, "--setting", "3-task"]) == 1
    printed = capsys.readouterr().out
    assert "missing Rain100L, BSD68 noise15, BSD68 noise25, BSD68 noise50 of the setting 3-task" in printed
    assert "Found, and not measured: LOL-v1, SOTS indoor." in printed
    assert json.loads((home / "results" / "results.json").read_text())["missing"][0] == "Rain100L"
    assert main([*words, "--setting", "dehaze", "--on-top", "noise25,rain"]) == 0
    tasks = json.loads((home / "results" / "results.json").read_text())["tasks"]
    assert list(tasks) == ["SOTS + noise25", "SOTS + rain"]
    assert main([*words, "--setting", "denoise"]) == 1
    assert main([*words, "--metrics", "psnr"]) == 2
    assert main(["evaluate", restorer, "--test-data", "sets", "--protocol", "matlab"]) == 2


def test_what_a_restorer_sees(a_run: Path, home: Path, capsys: Any) -> None:
    assert main(["look", "photographs", "nothing.png", "--model", "run", "--device", "cpu"]) == 1
    printed = capsys.readouterr().out
    assert all(f"{number:03}.png" in printed for number in range(3))
    assert "failed nothing.png: There is no such file." in printed
    assert main(["look", "photographs", "nothing.png", "--model", "run", "--json"]) == 1
    captured = capsys.readouterr()
    *seen, failed = map(json.loads, captured.out.splitlines())
    assert failed == {"photograph": "nothing.png", "error": "There is no such file."}
    assert [Path(one["photograph"]).name for one in seen] == ["000.png", "001.png", "002.png"]
    assert all({*one["distances"]} == {"noise25", "clean"} and one["seen"] in one["distances"] for one in seen)


@pytest.fixture
def knowing(home: Path) -> str:
    """A restorer that knows what it sees, of a network that nobody trained."""
    settings = NetworkSettings(network="unet", options={"width": 4})
    model = settings.restorer(0)
    assert isinstance(model, HairModel)
    giv_dim = perturb(model).plan.giv_dim
    givs = KnownGIVs({name: KnownGIV((at,) * giv_dim, 1.0) for name, at in (("rain", 2.0), ("clean", -2.0))})
    save_pretrained(Restorer(model, settings.named(), 4, givs=givs), home / "knowing")
    return "knowing"


@pytest.mark.parametrize(("name", "fails"), [("[final].png", False), ("k[/italic]/x.png", False), ("a.heic", True)])
def test_odd_names_and_files_end_no_looking(knowing: str, home: Path, name: str, fails: bool, capsys: Any) -> None:
    (home / "odd").mkdir()
    picture = (home / "photographs" / "000.png").read_bytes()
    (home / "odd" / "good.png").write_bytes(picture)
    (home / "odd" / name).parent.mkdir(exist_ok=True, parents=True)
    (home / "odd" / name).write_bytes(b"x" if fails else picture)
    assert main(["look", "odd", "--model", knowing]) == int(fails)
    printed = capsys.readouterr().out
    assert "odd/good.png" in printed
    assert name[:10] in printed  # long names are folded
    assert main(["look", "odd", "nothing.png", "--model", knowing, "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum("error" in line for line in lines) == 1 + int(fails)
    assert main(["look", "odd", "--model", knowing]) == int(fails)
    assert "odd/good.png" in capsys.readouterr().out  # what is said goes where it went


def test_restoring_as_the_network_does_not_see_it(knowing: str, home: Path, capsys: Any) -> None:
    made = {}
    for name, words in {
        "plain": [],
        "all": ["--strength", "1"],
        "half": ["--strength", "0.5"],
        "none": ["--strength", "0"],
        "clean": ["--as", "clean"],
        "as": ["--as", "rain"],
        "like": ["--like", "photographs/001.png"],
        "passes": ["--passes", "2"],
    }.items():
        given = ["restore", "photographs/000.png", "--model", knowing, "--output", name, *words]
        assert main(given) == 0, capsys.readouterr()
        made[name] = (home / name / "000.png").read_bytes()
    assert made["all"] == made["plain"]
    assert made["none"] == made["clean"]
    assert len({*made.values()}) == len(made) - 2
    capsys.readouterr()
    for words, message in (
        (["--as", "fog"], "knows no degradation 'fog'; it knows rain, clean"),
        (["--as", "rain", "--like", "photographs/001.png"], "--as and --like both say"),
        (["--strength", "3"], "--strength is 3.0; accepted are numbers from 0 to 2"),
    ):
        assert main(["restore", "photographs/000.png", "--model", knowing, "--output", "refused", *words]) == 2
        assert message in capsys.readouterr().err
    (home / "knowing" / "givs.json").unlink()
    for words in (["look", "photographs"], ["restore", "photographs", "--output", "refused", "--strength", "0.5"]):
        assert main([*words, "--model", knowing]) == 2
        assert "hairify train --resume" in capsys.readouterr().err
    assert not (home / "refused").exists()


def test_a_static_restorer_sees_nothing(home: Path, capsys: Any) -> None:
    settings = NetworkSettings(network="unet", options={"width": 4}, convert=False)
    save_pretrained(Restorer(settings.restorer(0), settings.named(), 4), home / "static")
    assert main(["look", "photographs", "--model", "static"]) == 2
    assert "takes a restorer that was converted" in capsys.readouterr().err


def test_a_table_of_runs(home: Path, capsys: Any) -> None:
    for name, psnr in (("first", 30.0), ("second", 31.0)):
        numbers = {"psnr": psnr, "ssim": 0.9}
        tasks = {"SOTS": numbers | {"images": 5, "input": {"psnr": 20.0, "ssim": 0.5}}}
        (home / name).mkdir()
        (home / name / "results.json").write_text(json.dumps({"tasks": tasks, "unreadable": {}}))
    assert main(["table", "ours=first", "second", "--output", "tables"]) == 0
    assert (home / "tables" / "table.md").read_text().splitlines()[2:] == [
        "| ours | 30.00 / **0.900** | 30.00 / **0.900** |",
        "| second | **31.00** / **0.900** | **31.00** / **0.900** |",
    ]
    assert r"ours & 30.00 & \textbf{0.900}" in (home / "tables" / "table.tex").read_text()
    assert main(["table", "first/results.json", "second", "--show", "psnr", "--setting", "3-task"]) == 0
    capsys.readouterr()
    assert main(["table", "first", "first"]) == 2
    assert "Two rows would be called 'first'" in capsys.readouterr().err
    assert main(["table", "photographs"]) == 1
    assert (
        "photographs has no results.json; `hairify evaluate photographs --output photographs`"
        in capsys.readouterr().err
    )
    (home / "third" / "evaluations" / "promptir").mkdir(parents=True)
    (home / "third" / "evaluations" / "promptir" / "results.json").write_text(
        (home / "first" / "results.json").read_text().replace('"tasks"', '"protocol": "promptir", "tasks"', 1)
    )
    assert main(["table", "third"]) == 1
    assert "it has those of third/evaluations/promptir" in capsys.readouterr().err
    assert main(["table", "first", "third/evaluations/promptir"]) == 1
    assert "cannot be compared" in capsys.readouterr().out
