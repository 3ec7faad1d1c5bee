"""The evidence: its arms are what they are said to be, its differences are paired, and finished runs are kept."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.evidence import __main__ as command
from benchmarks.evidence import photographs, report, runs
from benchmarks.evidence.networks import NETWORKS, build, count, widened
from benchmarks.evidence.runs import ARMS, DEGRADATIONS, AtTheMean, Recipe, Run, Runner
from hairify import HairModel, hairify
from hairify.models import unet
from hairify.training import StepReport, train


class Cut(Exception):
    pass


RECIPE = Recipe(before=2, steps=3, patch=32, per_degradation=1, crop=32, evaluations=2)


@pytest.fixture(autouse=True)
def few_calibration_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_CALIBRATION", 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small photographs of noise, two of them held out by their names."""
    made = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for name in ("first", "second", *photographs.HELD_OUT[:2]):
        coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC).save(made / f"{name}.png")
    return made


def runner(output: Path, folder: Path, recipe: Recipe = RECIPE) -> Runner:
    return Runner(output, recipe, *photographs.divided(folder))


# Arithmetic


def test_differences_are_paired_over_common_seeds() -> None:
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(25, 3, (2, 4, len(DEGRADATIONS)))

    def by_seed(rows: Any, seeds: range) -> dict[int, dict[str, float]]:
        return {seed: dict(zip(DEGRADATIONS, rows[seed], strict=True)) for seed in seeds}

    found = report.differences(by_seed(ours, range(4)), by_seed(theirs, range(1, 4)))
    expected = (ours - theirs)[1:]
    for column, name in enumerate(DEGRADATIONS):
        assert found[name] == pytest.approx((expected[:, column].mean(), expected[:, column].std(ddof=1), 3))
    averages = expected.mean(axis=1)  # of each seed: its deviation is not the mean of the degradations' deviations
    assert found["average"] == pytest.approx((averages.mean(), averages.std(ddof=1), 3))


def test_a_single_seed_has_no_deviation_and_none_has_no_difference() -> None:
    psnr = dict.fromkeys(DEGRADATIONS, 20.0)
    assert report.differences({0: psnr}, {0: psnr, 1: psnr})["average"] == (0.0, None, 1)
    assert report.differences({0: psnr}, {1: psnr}) == {}


def result(psnr: float, steps: tuple[int, ...] = (0, 3)) -> dict[str, Any]:
    curve = [{"step": step, "psnr": dict.fromkeys(DEGRADATIONS, psnr + step)} for step in steps]
    use = {"recognised": None, "gain": 0.5, "cost_of_wrong": 1.5, "spread": {"level": 0.25}}
    return {"parameters": 1234, "curve": curve, "conditioning": use}


def test_tables_show_what_was_found() -> None:
    arms = {"static": {0: result(20), 1: result(21)}, "converted": {0: result(22), 1: result(24)}}
    text = report.as_markdown({("trained", "unet"): arms})
    cells = " | ".join(["23.50"] * (len(DEGRADATIONS) + 1))
    assert f"| static | 1,234 | 2 | {cells} |" in text
    cells = " | ".join(["+2.50 ± 0.71"] * (len(DEGRADATIONS) + 1))
    assert f"| static | 2 | {cells} |" in text
    assert "| 0 | 0.50 dB | 1.50 dB |  | 0.25 |" in text
    plain = json.loads(json.dumps(report.as_json({("trained", "unet"): arms})))["trained/unet"]
    assert plain["converted minus"]["static"]["average"] == pytest.approx(
        {"mean": 2.5, "deviation": 0.5**0.5, "seeds": 2}
    )


def test_curves_have_the_steps_that_all_seeds_have(tmp_path: Path) -> None:
    both = [result(20, (0, 2, 4)), result(22, (0, 4))]
    assert report._curve(both) == ([0, 4], [21, 25])
    (path,) = report.draw({("scratch", "unet"): {"static": dict(enumerate(both))}}, tmp_path)
    assert path.stat().st_size


# Arms


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_widened_network_is_the_smallest_that_is_no_smaller(name: str) -> None:
    size = count(hairify(build(name)))
    width = widened(name, size)
    _, usual, step = NETWORKS[name]
    assert count(build(name, width)) >= size > count(build(name, width - step))
    assert width > usual
    assert build(name, width)(torch.rand(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_at_the_mean_no_image_is_told_from_another(tmp_path: Path, folder: Path) -> None:
    network = runner(tmp_path, folder)._start(Run("scratch", "tiny", 0, "mean"))
    assert isinstance(network, AtTheMean)
    assert network.hair.is_calibrated
    with torch.no_grad():
        for parameter in network.parameters():  # so that rows differ
            parameter.add_(0.05 * torch.randn(parameter.shape))
    images = torch.rand(2, 3, 32, 32)
    with network.hair.conditioned_on(network.mean.expand(2, -1)):
        told = network.hair(images)
    torch.testing.assert_close(network(images), told)
    assert not torch.allclose(network.hair(images), told, atol=1e-4)


@pytest.mark.parametrize("regime", ["trained", "scratch"])
def test_arms_start_from_one_function(tmp_path: Path, folder: Path, regime: Any) -> None:
    carry = runner(tmp_path, folder)
    starts = {arm: carry._start(Run(regime, "tiny", 0, arm)).eval() for arm in ("static", "converted", "mean")}
    images = torch.rand(2, 3, 32, 32)
    device = {arm: next(network.parameters()).device for arm, network in starts.items()}
    outputs = {arm: network(images.to(device[arm])).cpu() for arm, network in starts.items()}
    torch.testing.assert_close(outputs["converted"], outputs["static"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs["mean"], outputs["static"], rtol=1e-4, atol=1e-5)
    states = [starts[arm].state_dict() for arm in ("converted", "mean")]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][f"hair.{name}"].to(tensor), tensor, msg=name)


# Runs


def test_all_arms_are_trained_and_reported(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "QUICK", RECIPE)  # fewer steps still
    arguments = ["--quick", "--photographs", str(folder), "--output", str(tmp_path), "--regimes", "trained"]
    assert command.main(arguments) == 0
    found = json.loads((tmp_path / "evidence.json").read_text())["trained/tiny"]
    assert set(found["runs"]) == set(ARMS)
    assert set(found["converted minus"]) == set(ARMS) - {"converted"}
    for arm, by_seed in found["runs"].items():
        assert set(by_seed) == {"0", "1"}
        for one in by_seed.values():
            assert [point["step"] for point in one["curve"]] == [0, 1, 2, 3]
            assert set(one["curve"][-1]["psnr"]) == set(DEGRADATIONS)
            assert ("conditioning" in one) == (arm == "converted")
            assert all(("conditioning" in point) == (arm == "converted") for point in one["curve"][1:])
    sizes = {arm: by_seed["0"]["parameters"] for arm, by_seed in found["runs"].items()}
    assert sizes["static"] < sizes["converted"] <= sizes["widened"]
    assert sizes["mean"] == sizes["converted"]
    assert "### tiny, from a trained network" in (tmp_path / "evidence.md").read_text()
    assert (tmp_path / "evidence_trained_tiny.png").exists()
    # All of one seed begin where the network trained before them ended, but for the widened one.
    starts = {arm: by_seed["0"]["curve"][0]["psnr"]["haze"] for arm, by_seed in found["runs"].items()}
    assert starts["converted"] == pytest.approx(starts["static"], abs=1e-3)
    assert starts["mean"] == pytest.approx(starts["static"], abs=1e-3)
    assert starts["widened"] != pytest.approx(starts["static"], abs=1e-3)


def test_finished_runs_are_not_done_again(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("trained", "tiny", 0, "static")
    first = runner(tmp_path, folder).carry_out(run)
    monkeypatch.setattr(runs, "train", None)
    assert runner(tmp_path, folder).carry_out(run) == first


def test_what_was_cut_off_goes_on_to_the_same_end(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("scratch", "tiny", 0, "converted")
    unbroken = runner(tmp_path / "unbroken", folder).carry_out(run)
    cut = runner(tmp_path / "cut", folder)
    settings = cut._settings

    def cut_off(*args: Any, **kwargs: Any) -> Any:
        return train(*args, **kwargs, on_step=stop)

    def stop(seen: StepReport) -> None:
        if seen.step == 3:
            raise Cut

    monkeypatch.setattr(cut, "_settings", lambda *args: dataclasses.replace(settings(*args), save_every=1))
    monkeypatch.setattr(runs, "train", cut_off)
    with pytest.raises(Cut):
        cut.carry_out(run)
    assert not (tmp_path / "cut" / run.name / "result.json").exists()
    monkeypatch.undo()
    monkeypatch.setattr(runs, "_CALIBRATION", 10)
    assert runner(tmp_path / "cut", folder).carry_out(run) == unbroken


def test_another_recipe_is_refused(tmp_path: Path, folder: Path) -> None:
    run = Run("scratch", "tiny", 0, "static")
    runner(tmp_path, folder).carry_out(run)
    other = dataclasses.replace(RECIPE, rate=5e-4)
    with pytest.raises(SystemExit, match="another rate;"):
        runner(tmp_path, folder, other).carry_out(run)


def test_runs_are_chosen_by_name(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--photographs", str(folder), "--output", str(tmp_path / "out")]
    assert command.main([*arguments, "--only", "nothing/*"]) == 1
    assert "No run matches" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Photographs


def test_no_photograph_is_on_both_sides() -> None:
    known = [name for names in photographs.PHOTOGRAPHS.values() for name in names]
    known += [Path(name).stem for name in photographs.WHEELS]
    assert len(known) == len(set(known))
    assert set(photographs.HELD_OUT) < set(known)
    learnt, tested = photographs.divided(None)
    assert not {path.stem for path in learnt} & {path.stem for path in tested}
    assert all(path.exists() for path in (*learnt, *tested))


def test_photographs_too_small_to_be_evaluated_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(SystemExit, match=r"is smaller than the 64 pixels"):
        runner(tmp_path, folder, Recipe(crop=64))


def test_conversion_of_an_arm_is_the_default_one(tmp_path: Path, folder: Path) -> None:
    hair = runner(tmp_path, folder)._start(Run("scratch", "tiny", 0, "converted"))
    assert isinstance(hair, HairModel)
    assert hair.plan == hairify(build("tiny")).plan


def test_a_quick_run_does_not_pass_over_what_was_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--quick", "--output", str(tmp_path), "--steps", "5", "--networks", "unet"]) == 2
    assert "--steps, --networks" in capsys.readouterr().err


def test_options_of_the_recipe(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What trains on a GPU within minutes is a matter of options; here in few steps, in bf16, of a small network."""
    monkeypatch.setitem(NETWORKS, "restormer24", (lambda width: unet(width=width), 4, 4))
    arguments = f"--photographs {folder} --output {tmp_path} --seeds 1 --regimes trained --networks restormer24"
    recipe = "--before 2 --steps 3 --patch 32 --crop 32 --per-degradation 1 --precision bf16"
    assert command.main([*arguments.split(), *recipe.split(), "--only", "*/converted"]) == 0
    written = json.loads((tmp_path / "trained/restormer24/recipe.json").read_text())
    assert (written["precision"], written["patch"], written["per_degradation"]) == ("bf16", 32, 1)
    assert (tmp_path / "trained/restormer24/0/converted/result.json").exists()
