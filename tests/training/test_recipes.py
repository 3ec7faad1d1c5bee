"""The recipes: their schedules point by point, their steps on the paper's settings, and a few steps of each."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import pytest
from published_settings import CODE_REPEATS, SETTINGS, epoch_of, steps_table
from training_runs import Plain, seeded

from hairify import recipes
from hairify.cli import main
from hairify.cli.options import make_settings, read_tables
from hairify.data.datasets import DataSettings, Task, training_tasks
from hairify.data.samples import TrainingSamples, samples_for
from hairify.errors import OptionError
from hairify.training import TrainingSettings, train

DOCS = Path(__file__).parents[2] / "docs"


def training(name: str, **changes: Any) -> TrainingSettings:
    return dataclasses.replace(make_settings(TrainingSettings, tables(name)["training"], {}), **changes)


def data(name: str) -> DataSettings:
    return make_settings(DataSettings, tables(name)["data"], {})


def tables(name: str) -> dict[str, dict[str, Any]]:
    return read_tables(recipes.path(name))


def half_cosine(high: float, low: float, share: float) -> float:
    return low + (high - low) * math.cos(math.pi * share / 2) ** 2  # (1 + cos 2x) / 2 = cos² x


# Each schedule as its source states it: at a time in epochs, of an epoch of 1000 steps; for those that count steps, at
# a share of all.


def paper(epoch: float) -> float:
    return 2e-4 if epoch <= 150 else 2e-5


def authors(epoch: float) -> float:
    return 2e-4 * epoch / 15 if epoch <= 15 else half_cosine(2e-4, 0, (epoch - 15) / 135)


def modern(epoch: float) -> float:
    return 3e-4 * epoch / 2 if epoch <= 2 else half_cosine(3e-4, 1e-6, (epoch - 2) / 148)


COURSES: dict[str, tuple[int, Callable[[float], float]]] = {
    "paper": (160, paper),
    "paper-single": (160, paper),
    "authors": (150, authors),
    "promptir": (120, authors),  # the same course, left after 120 epochs
    "modern": (150, modern),
}


@pytest.mark.parametrize("name", COURSES)
def test_each_schedule_point_by_point(name: str) -> None:
    epochs, course = COURSES[name]
    settings = training(name)
    assert settings.total_steps(1000 * settings.batch_size) == epochs * 1000
    steps = range(1, epochs * 1000 + 1, 7)
    got = [settings.rate(step, epochs * 1000) for step in (*steps, epochs * 1000)]
    expected = [course(step / 1000) for step in (*steps, epochs * 1000)]
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-18)
    assert max(got) == pytest.approx(max(expected))


def test_the_schedules_that_count_steps_point_by_point() -> None:
    settings, steps = training("restormer"), 300_000
    assert settings.total_steps(1) == steps
    held = [settings.rate(step, steps) for step in range(1, 92_001, 41)]
    assert set(held) == {3e-4}
    for step in (92_000, 92_001, 100_000, 196_000, 299_999, steps):
        expected = half_cosine(3e-4, 1e-6, (step - 92_000) / 208_000)
        assert settings.rate(step, steps) == pytest.approx(expected, rel=1e-9)
    quick = training("quick")
    rates = [quick.rate(step, 600) for step in range(1, 601)]
    assert quick.total_steps(1) == 600
    assert rates[:30] == pytest.approx([1e-3 * step / 30 for step in range(1, 31)])
    assert rates[30:] == pytest.approx([half_cosine(1e-3, 1e-5, (step - 30) / 570) for step in range(31, 601)])


def test_promptir_is_left_on_its_way_down() -> None:
    assert training("promptir").rate(120_000, 120_000) / 2e-4 == pytest.approx((1 + math.cos(math.pi * 7 / 9)) / 2)


def test_what_else_the_sources_say() -> None:
    for name, batch in (("paper", 32), ("paper-single", 8), ("authors", 32), ("promptir", 32)):
        settings = training(name)
        assert (settings.batch_size, settings.loss, settings.ema_decay) == (batch, "l1", 0.0)
        assert data(name).patch_size == 128
    assert data("paper").augmentation == "flips"
    assert data("authors").augmentation == data("promptir").augmentation == "all"
    assert data("authors").repeats == {"rain": 120, "low_light": 20, "blur": 5, "noise": 3} == CODE_REPEATS
    assert training("authors").weight_decay == training("promptir").weight_decay == 1e-2
    modern = training("modern")
    assert (modern.loss, modern.clip_norm) == ("l1+0.1*fft", 1.0)


def test_restormer_s_patches_and_batches() -> None:
    """By step: 92k, 64k, 48k, 36k, 36k and 24k of them, as published."""
    batches = training("restormer").batches(300_000)
    patches, sizes = (128, 160, 192, 256, 320, 384), (64, 40, 32, 16, 8, 8)
    first, begin = 0, 0
    for patch, size, length in zip(patches, sizes, (92_000, 64_000, 48_000, 36_000, 36_000, 24_000), strict=True):
        for step in (begin + 1, begin + length):
            stage = batches.stage(step)
            assert (stage.patch_size, stage.batch_size) == (patch, size)
            assert batches.first_sample(step) == first + (step - begin - 1) * size
        first, begin = first + length * size, begin + length


# Steps on the paper's settings


@pytest.mark.parametrize("setting", SETTINGS)
def test_epochs_of_the_paper_s_settings(setting: str, tmp_path: Path) -> None:
    """What `TrainingSamples` counts of tasks with as many images."""
    images = {name: (tmp_path / "a.png",) * count for name, count in SETTINGS[setting].items()}
    tasks = [Task(name, name, files, files) for name, files in images.items()]
    assert TrainingSamples(tasks, 8, 0, 0).epoch == epoch_of(setting, {})
    assert TrainingSamples(tasks, 8, 0, 0, repeats=CODE_REPEATS).epoch == epoch_of(setting, CODE_REPEATS)


def test_the_docs_have_the_steps() -> None:
    assert steps_table() in (DOCS / "how-to/recipes.md").read_text(encoding="utf-8")


def test_some_steps_by_hand() -> None:
    """Three degradations: 3 × 5,144 noisy, 200 rainy and 72,135 hazy images."""
    assert training("paper").total_steps(87_767) == 160 * 2743  # 87,767 / 32 is 2742.7
    assert training("authors").total_steps(142_431) == 150 * 4451  # 9 × 5,144 + 120 × 200 + 72,135; / 32: 4450.97
    assert training("paper-single").total_steps(200) == 160 * 25


# The command line


def test_recipes_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    for name in recipes.names():
        assert f"{name} " in listed
        assert recipes.summary(name) in listed
    assert main(["recipes", "paper"]) == 0
    assert capsys.readouterr().out == recipes.text("paper")


@pytest.mark.parametrize("words", [["recipes", "papre"], ["train", "--recipe", "papre", "--output", "run"]])
def test_an_unknown_recipe_is_answered(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "accepted are authors, modern, paper, paper-single, promptir, quick, restormer" in " ".join(error.split())
    assert "Did you mean 'paper'?" in " ".join(error.split())


SMALL = '[network]\nnetwork = "unet"\nconvert = false\noptions = { width = 4 }\n[training]\ncpu = true\nworkers = 0\n'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    layouts.photographs(tmp_path / "photographs", count=3)
    (tmp_path / "mine.toml").write_text(SMALL + 'log_with = ["none"]\nvalidate_every = 0\nbatch_size = 2\nseed = 5\n')
    return tmp_path


def test_flags_count_before_the_file_and_the_file_before_the_recipe(home: Path) -> None:
    words = (
        "train --recipe authors --config mine.toml --data photographs --output run --steps 0 --seed 6 --patch-size 16"
    )
    assert main([*words.split(), "--degradations", "noise25,rain"]) == 0
    written = read_tables(home / "run/config.toml")
    assert written["training"]["weight_decay"] == 1e-2  # the recipe's
    assert written["training"]["batch_size"] == 2  # the file's
    assert written["training"]["seed"] == 6  # the flag's
    assert written["data"]["repeats"] == CODE_REPEATS
    assert written["data"]["patch_size"] == 16


def test_epochs_that_would_not_count_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe or a file that has steps would end the run in their place."""
    small = "--data photographs --degradations noise25,rain --patch-size 16"
    (home / "steps.toml").write_text(SMALL + "steps = 9\n")
    (home / "epochs.toml").write_text(SMALL + "final_epochs = 2\n")
    for words, name in (
        ("--recipe quick --epochs 3", "--epochs is 3"),
        ("--config steps.toml --epochs 3", "--epochs is 3"),
        ("--recipe quick --config epochs.toml", "--final-epochs is 2"),
    ):
        assert main(["train", *words.split(), *small.split(), "--output", "run"]) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert name in error
        assert "the length of the run is given by --steps" in error
    words = "--recipe quick --config mine.toml --epochs 3 --final-epochs 1 --steps 0"
    assert main(["train", *words.split(), *small.split(), "--output", "run"]) == 0


def test_a_run_that_goes_on_takes_no_recipe(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--recipe", "paper", "--resume", "--output", "run"]) == 2
    assert "--recipe is 'paper', but a run that goes on" in " ".join(capsys.readouterr().err.split())


def test_a_recipe_is_a_file_as_any_other(home: Path) -> None:
    """Copied and given by --config, it makes the same run."""
    (home / "copy.toml").write_text(recipes.text("quick"))
    rest = "--network unet --option width=4 --no-convert --data photographs --steps 1 --cpu --workers 0 --patch-size 16"
    for name, given in (("a", "--recipe quick"), ("b", "--config copy.toml")):
        assert main(f"train {given} {rest} --output {name}".split()) == 0
    logs = [json.loads((home / name / "log.jsonl").read_text().splitlines()[0]) for name in "ab"]
    assert logs[0]["loss"] == logs[1]["loss"]
    assert (home / "a/config.toml").read_text() == (home / "b/config.toml").read_text()


@pytest.mark.parametrize("name", recipes.names())
def test_a_few_steps_of_each(name: str, tmp_path: Path) -> None:
    """Its settings as they are, but for the number of steps and the size of patches and batches."""
    layouts.photographs(tmp_path / "photographs", count=3)
    settings = dataclasses.replace(
        data(name), data=(tmp_path / "photographs",), patch_size=16, degradations=("noise25", "rain")
    )
    changes: dict[str, Any] = {"steps": 6, "batch_size": 2, "cpu": True, "workers": 0, "log_with": ()}
    if name == "restormer":
        changes["progression"] = tuple(f"{16 + 8 * i}x2@1" for i in range(6))
    recipe = training(name, **changes)
    seen: list[float] = []
    done = train(
        seeded(Plain),
        samples_for(training_tasks(settings), settings, 0),
        recipe,
        output=tmp_path / "run",
        on_step=lambda report: seen.append(report.learning_rate),
    )
    assert len(done.losses) == 6
    assert all(map(math.isfinite, done.losses))
    assert seen == [recipe.rate(step, 6) for step in range(1, 7)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "linear"}, r"`schedule` is 'linear'; accepted are step, cosine"),
        ({"warm_up": 3, "warm_up_epochs": 1}, r"give one of them"),
        ({"hold_epochs": 3}, r"`hold_epochs` is of the `schedule` 'cosine', and that is 'step'"),
        ({"cosine_epochs": 3}, r"`cosine_epochs` is of the `schedule` 'cosine'"),
        ({"schedule": "cosine", "epochs": 10, "warm_up_epochs": 10}, r"begin after 10 epochs and end after 10"),
        ({"schedule": "cosine", "final_learning_rate": -1.0}, r"`final_learning_rate` is -1.0; accepted are 0 and"),
        ({"final_learning_rate": 0.0}, r"`final_learning_rate` is 0.0; accepted are positive"),
        ({"epochs": 0, "final_epochs": 0, "steps": 9, "warm_up_epochs": 1}, r"`warm_up_epochs` needs `epochs`"),
        ({"rates": {"hns": 2.0}}, r"`rates` has 'hns'; accepted are base, dac, hsn, boxes. Did you mean 'hsn'"),
        ({"rates": {"hsn": 0.0}}, r"`rates` has 0.0 for hsn; accepted are positive"),
        ({"progression": ("128@92",)}, r"`progression` has '128@92'; accepted are stages such as '128x64@92'"),
        ({"progression": ("128x0@92",)}, r"with numbers above 0"),
        (
            {"progression": ("128x6@9",), "accumulation": 4},
            r"`progression` has batches of 6.*multiples of 4, such as 8",
        ),
        ({"loss": "l1+ftt"}, r"`loss` is 'l1\+ftt'; accepted are l1, charbonnier, fft, ms-ssim. Did you mean 'fft'"),
        ({"loss": "0*l1"}, r"`loss` is '0\*l1', with the weight 0; accepted are positive"),
        ({"channels_last": True, "fsdp": True}, r"`channels_last` is on, but FSDP"),
    ],
)
def test_values_that_are_not_accepted(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TrainingSettings(**options)
