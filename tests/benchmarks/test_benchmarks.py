"""The benchmarks run, compare what they say they compare, and report it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from util import START, assert_close

from benchmarks import __main__ as command
from benchmarks import cases, kernels, memory, plots, report, targets, variants
from benchmarks.cases import Case
from benchmarks.machine import describe
from benchmarks.measure import Effort, Result, measure, ratios, rotated
from benchmarks.networks import NETWORKS, TINY, build, from_windows, shift_mask, to_windows
from benchmarks.shares import Work
from hairify import hairify

CASES = [Case("unet", "training", 8, 128, cases.BATCH), Case("unet", "forward", 1, 128, cases.FORWARD)]


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_quick_run_writes_all(tmp_path: Path) -> None:
    assert command.main(["--quick", "--only", "tiny-[nu]*", "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert set(found) == {"machine", "conversion_seconds", "targets", "cases"}
    assert found["machine"]["torch"] == torch.__version__
    seen = set()
    for case in found["cases"]:
        assert case["skipped"] is None
        assert set(case["variants"]) == set(case["case"]["variants"])
        assert case["lower_bound"] > 1
        for variant, numbers in case["variants"].items():
            seen.add(variant)
            assert len(numbers["seconds"]) == command.QUICK.rounds
            assert min(numbers["ratios"]) > 0
            assert (numbers["peak_bytes"] is not None) == memory.can_measure()
    assert seen == {*cases.FORWARD, "tuned"}
    (tuned,) = (case for case in found["cases"] if case["tuning"] is not None)
    assert "tuned" in tuned["variants"]
    assert tuned["tuning"].startswith("Tuning on ")
    text = (tmp_path / "results.md").read_text()
    for heading in (
        "## Targets",
        "## Time",
        "## Peak memory",
        "## What conversion adds",
        "## What tuning chose",
        "## Conversion",
    ):
        assert heading in text
    assert "| tiny-nafnet/training/b2/32 | 1 |" in text
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {"cost_by_batch.png", "cost_by_box_size.png", "cost_by_size.png"}


def test_no_case_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--only", "nothing", "--output", str(tmp_path / "out")]) == 1
    assert "No case matches" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_cases_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list", "--only", "restormer-48/forward/b[18]/128"]) == 0
    assert capsys.readouterr().out.split() == ["restormer-48/forward/b1/128", "restormer-48/forward/b8/128"]


@pytest.mark.parametrize("choose", [cases.default_cases, cases.full_cases, cases.quick_cases])
def test_cases_are_unique_and_by_network(choose: Any) -> None:
    chosen = choose(["cpu", "cuda"])
    assert len({case.name for case in chosen}) == len(chosen)
    assert {case.device for case in chosen} == {"cpu", "cuda"}
    assert all(case.variants[0] == "static" and case.network in NETWORKS | TINY for case in chosen)
    keys = [(case.network, case.box_factor, case.device) for case in chosen]
    changes = sum(a != b for a, b in itertools.pairwise(keys))
    assert changes == len(set(keys)) - 1, "each network is converted once"


def test_default_cases_have_those_of_all_targets() -> None:
    results = [fake(case) for case in cases.default_cases(["cpu"])]
    at_128 = [(v.case, v.quantity) for v in targets.verdicts(results) if v.case.endswith("/128")]
    for network in ("restormer", "nafnet", "swinir", "unet"):
        quantities = sorted(quantity for case, quantity in at_128 if case.startswith(network))
        times, memory = ["hairified, time"] * 3, ["hairified, peak memory"]
        assert quantities == sorted(["baked, time", "conditioned, time", *times, *memory])


@pytest.mark.parametrize(
    "name",
    [
        *sorted(TINY),
        *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(NETWORKS)),
    ],
)
def test_networks_convert(name: str) -> None:
    network = build(name).eval()
    images = torch.rand(2, 3, 32, 32)
    hair = hairify(network)
    with torch.no_grad():
        assert_close(hair(images), network(images), START[torch.float32])


def test_networks_are_the_same_each_time() -> None:
    first, second = build("tiny-nafnet").state_dict(), build("tiny-nafnet").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_windows_go_back() -> None:
    x = torch.rand(2, 16, 24, 3)
    assert torch.equal(from_windows(to_windows(x), 16, 24), x)
    mask = shift_mask(x)
    assert mask.shape == (6, 64, 64)
    assert not mask[0].any(), "the first window lies within"
    assert mask[-1].any(), "the last has parts of all ends"


class Convolutions(TorchFunctionMode):
    """Notes the groups of all convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "conv2d":
            self.groups.append(args[6] if len(args) > 6 else (kwargs or {}).get("groups", 1))
        return func(*args, **(kwargs or {}))


def test_grouped_is_what_it_says_within_and_not_after() -> None:
    network = nn.Sequential(*(nn.Conv2d(4, 4, 1, bias=False) for _ in range(4))).eval()
    hair = hairify(nn.Sequential(nn.Conv2d(3, 4, 1), network, nn.Conv2d(4, 3, 1)), targets="layers").eval()
    images = torch.rand(3, 3, 16, 16)
    with torch.no_grad(), Convolutions() as usual:
        expected = hair(images)
    with torch.no_grad(), Convolutions() as noted, variants.as_the_field_does(hair):
        got = hair(images)
        assert all(box.recompute is False for box in hair.boxes)
    assert_close(got, expected, 1e-5)
    assert noted.groups.count(3) == len(hair.plan.levels)
    assert 3 not in usual.groups
    assert all(box.recompute is None for box in hair.boxes)
    with torch.no_grad(), Convolutions() as after:
        hair(images)
    assert after.groups == usual.groups


def test_ratios_are_taken_within_rounds() -> None:
    assert ratios([2, 30, 4], [1, 10, 4]) == [2, 3, 1]
    result = fake(CASES[0])
    result.seconds = {"static": [1, 10, 1], "hairified": [1.5, 15, 1.2]}
    assert report.as_json([result], describe(), {})["cases"][0]["variants"]["hairified"]["median_ratio"] == 1.5


def test_orders_rotate() -> None:
    assert [rotated("abc", turn) for turn in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]


def test_bound_is_work_over_work() -> None:
    work = Work(static=1000, generation=50, classifier=30)
    assert work.lower_bound == 1.08
    case = Case("tiny-unet", "forward", 2, 32, cases.BARE)
    pair = variants.convert("tiny-unet", None, "cpu", lambda: 0.0)
    measured = measure(case, pair, Effort(least=0, seconds=0)).work
    assert measured is not None
    assert measured.generation == 2 * sum(level.box_size * level.row_parameters for level in pair.hair.plan.levels)
    first, second = 3 * 9 * 8, 8 * 9 * 8  # multiplications at each position, at full resolution
    assert measured.static > 2 * 32**2 * (first + second)
    assert measured.classifier > 0


def test_box_size_is_a_multiple() -> None:
    pair = variants.convert("tiny-nafnet", 2, "cpu", lambda: 0.0)
    assert [level.box_size for level in pair.hair.plan.levels] == [2 * len(v.blocks) for v in pair.hair.plan.levels]


def test_verdicts() -> None:
    training, forward = (fake(case) for case in CASES)
    training.seconds = {"static": [1, 1, 1], "hairified": [1.2, 1.1, 1.1], "grouped": [1.2, 1.2, 1.2]}
    forward.seconds = {
        "static": [2.0, 2.0],
        "hairified": [2.2, 2.2],
        "conditioned": [2.1, 2.1],
        "baked": [2.0, 2.0],
    }
    got = {(v.case, v.quantity): v.is_reached for v in targets.verdicts([training, forward])}
    assert got == {
        ("unet/training/b8/128", "hairified, time"): False,
        ("unet/training/b8/128", "hairified, peak memory"): True,
        ("unet/forward/b1/128", "hairified, time"): True,
        ("unet/forward/b1/128", "conditioned, time"): False,
        ("unet/forward/b1/128", "baked, time"): True,
    }
    text = report.as_markdown([training, forward], describe(), {})
    assert "| unet/forward/b1/128 | hairified, time | ≤ 1.12 | 1.100 | ✓ |" in text
    assert "| unet/training/b8/128 | hairified, time | ≤ 1.08 | 1.100 | ✗ |" in text


@pytest.mark.parametrize(
    "case",
    [
        Case("unet", "forward", 1, 64, cases.BARE),
        Case("tiny-unet", "forward", 1, 128, cases.BARE),
        Case("unet", "forward", 1, 128, cases.BARE, box_factor=2),
        Case("unet", "forward", 1, 128, cases.BARE, device="cuda"),
        Case("restormer-24", "forward", 1, 128, cases.BARE),
    ],
    ids=lambda case: case.name,
)
def test_targets_are_for_usual_cases(case: Case) -> None:
    assert not targets.verdicts([fake(case)])


@pytest.mark.skipif(not memory.can_measure(), reason="no mark of the highest memory use here")
def test_peak_memory_is_that_of_the_call() -> None:
    kept = torch.ones(2**22)  # 16 MiB, not of the call
    torch.ones(2**25).sum()  # 128 MiB, freed before
    peak = memory.peak(lambda: torch.ones(2**24).sum(), "cpu")  # 64 MiB, freed at its end
    assert peak is not None
    assert 60 < peak / 2**20 < 90
    assert memory.held(nn.Linear(10, 10)) == 440
    assert kept.sum() == 2**22


def test_what_is_too_large_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.machine.memory", lambda: 4 * 2**30)
    small = fake(CASES[0])
    small.peak = {"static": 2**30, "hairified": 2**30}
    same, larger = CASES[0], Case("unet", "training", 8, 256, cases.BATCH)
    assert command._too_large(same, [small]) is None
    assert command._too_large(larger, [small]) == "expected to take 4 GiB at least"
    assert command._too_large(larger, []) is None


def test_skipped_cases_are_reported() -> None:
    text = report.as_markdown([Result(CASES[0], skipped="out of memory")], describe(), {})
    assert "| unet/training/b8/128 | out of memory |" in text


def test_no_plot_of_single_points(tmp_path: Path) -> None:
    assert plots.draw([fake(CASES[1])], tmp_path) == []


@pytest.mark.usefixtures("one_thread")
def test_kernels_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert kernels.main(["--quick", "--rounds", "1", "--batch", "2"]) == 0
    text = capsys.readouterr().out
    assert text.count("**") == 2 * 2 * len(kernels.TINY), "one is taken in each row"
    assert "| 3×3 depthwise, 8 at 8² |" in text


def fake(case: Case) -> Result:
    seconds = {variant: [1.0, 1.0, 1.0] for variant in case.variants}
    return Result(case, seconds, dict.fromkeys(case.variants, 2**20), dict.fromkeys(case.variants, 2**20))
