"""Laws of kernels chosen by measurement: results stay, the quickest is taken, and the file says what was measured."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from operations import CASES, Case, every_case, layouts
from torch import Tensor
from util import assert_close

from hairify.errors import TuningError
from hairify.functional import Tuning
from hairify.functional import _kernels as kernels
from hairify.functional import _measuring as measuring
from hairify.functional._measuring import Recorder, tuned
from hairify.functional._operations import Convolution, Linear
from hairify.functional._recomputation import applied, recomputed
from hairify.nn import WeightBox

CPU = torch.device("cpu")


class Always:
    """Chooses the same kernels for all cases, and counts how often it was asked."""

    def __init__(self, *kernels_: Any) -> None:
        self.chosen, self.asked = kernels.Choice(*kernels_), 0

    def choice(self, case: kernels.Case) -> kernels.Choice:
        self.asked += 1
        return self.chosen


def case_of(case: Case, per: int = 1, layout: str = "contiguous", dtype: torch.dtype = torch.float64) -> kernels.Case:
    """The case as layers meet it."""
    recorder = Recorder()
    input, weight, bias = case.tensors(per, layout, dtype)
    applied(case.operation, input, weight, bias, recorder)
    (found,) = recorder.cases
    return found


@every_case
@pytest.mark.parametrize("per", [1, 2])
def test_whatever_is_chosen_outputs_and_gradients_are_those_of_one_call_per_image(case: Case, per: int) -> None:
    able = kernels.able(case_of(case))
    for choice, layout, has_bias in product(product(able, able), layouts(case), (True, False)):
        leaves = [t.requires_grad_() for t in case.tensors(per, layout)]
        others = [t.detach().clone().requires_grad_() for t in leaves]
        chooser = Always(*choice)
        got = applied(case.operation, leaves[0], leaves[1], leaves[2] if has_bias else None, chooser)
        expected = case.one_by_one(others[0], others[1], others[2] if has_bias else None)
        assert chooser.asked
        assert_close(got, expected, 1e-13)
        grad = torch.randn_like(expected)
        n = 3 if has_bias else 2
        for g, e in zip(
            torch.autograd.grad(got, leaves[:n], grad), torch.autograd.grad(expected, others[:n], grad), strict=True
        ):
            assert_close(g, e, 1e-13)


@every_case
def test_weights_that_are_made_again_go_by_what_is_chosen(case: Case) -> None:
    able = kernels.able(case_of(case))
    for choice in product(able, able):
        input, weight, _ = case.tensors()
        selecting = torch.rand(len(weight), len(weight), dtype=torch.float64).softmax(1)
        leaves = [t.requires_grad_() for t in (input, selecting, weight)]
        got = recomputed(case.operation, input, WeightBox._generate, selecting, weight, tuning=Always(*choice))
        expected = case.one_by_one(input, torch.einsum("bn,n...->b...", selecting, weight), None)
        assert_close(got, expected, 1e-13)
        grad = torch.randn_like(expected)
        pairs = zip(torch.autograd.grad(got, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True)
        for g, e in pairs:
            assert_close(g, e, 1e-13)


def test_the_kernels_that_are_chosen_are_those_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    loop, convolve = kernels._KERNELS["loop"], kernels._loop_backward
    monkeypatch.setitem(kernels._KERNELS, "loop", lambda *args: ran.append("loop") or loop(*args))
    monkeypatch.setattr(kernels, "_loop_backward", lambda *args: ran.append("loop back") or convolve(*args))
    for choice, expected in ((("loop", "grouped"), ["loop"]), (("grouped", "loop"), ["loop back"])):
        ran.clear()
        case = CASES["conv2d, dense"]
        input, weight, bias = (t.requires_grad_() for t in case.tensors())
        applied(case.operation, input, weight, bias, Always(*choice)).sum().backward()
        assert ran == expected


class Clock:
    """Time that passes as kernels run: seconds for each, forward and backward. An error in their place is raised."""

    def __init__(self, patch: pytest.MonkeyPatch, forward: Mapping[str, Any], backward: Mapping[str, Any]) -> None:
        self.now = 0.0
        patch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: self.now))
        patch.setattr(measuring, "per_image", self._taking(kernels.per_image, forward))
        patch.setattr(measuring, "per_image_backward", self._taking(kernels.per_image_backward, backward))

    def _taking(self, call: Callable[..., Any], seconds: Mapping[str, Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            taken = seconds[args[-1]]
            if isinstance(taken, BaseException):
                raise taken
            self.now += taken
            return call(*args)

        return timed


POINT, DENSE = CASES["conv2d, point"], CASES["conv2d, dense"]
SLOW, QUICK = 0.02, 0.01


@pytest.mark.parametrize(
    ("forward", "backward", "expected"),
    [
        ({"matmul": 3, "grouped": 2, "loop": 1}, {"matmul": 3, "grouped": 1, "loop": 2}, ("loop", "grouped")),
        ({"matmul": 1, "grouped": 9, "loop": 9}, {"matmul": 9, "grouped": 9, "loop": 2}, ("matmul", "loop")),
        # gradients go by the kernel of the forward where another is quicker by no more than noise
        ({"matmul": 3, "grouped": 2, "loop": 1}, {"matmul": 0.96, "grouped": 3, "loop": 1}, ("loop", "loop")),
        # by rule it is matmul; what is quicker by less than noise does not take its place
        (
            {"matmul": 1, "grouped": 0.96, "loop": 0.97},
            {"matmul": 1, "grouped": 0.94, "loop": 9},
            ("matmul", "grouped"),
        ),
    ],
)
def test_the_quickest_is_taken(
    forward: dict[str, float], backward: dict[str, float], expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch, forward, backward)
    case = case_of(POINT)
    assert case.by_rule() == "matmul"
    made = tuned([case], CPU)
    assert made.choice(case) == expected
    measured = made.measured[case]
    assert measured.forward == {kernel: 1000 * seconds for kernel, seconds in forward.items()}
    assert measured.backward == {kernel: 1000 * seconds for kernel, seconds in backward.items()}
    assert (made.differing, measured.by_rule) == (1, "matmul")


def test_what_fails_or_lacks_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking, failing = torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("not implemented for 'Half'")
    Clock(monkeypatch, {"matmul": failing, "grouped": 2, "loop": 3}, {"matmul": 1, "grouped": lacking, "loop": 2})
    measured = tuned([case_of(POINT)], CPU).measured[case_of(POINT)]
    assert measured.choice == ("grouped", "matmul")
    assert (list(measured.forward), list(measured.backward)) == (["grouped", "loop"], ["matmul", "loop"])


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_where_all_fail_the_rules_hold(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    works, fails = dict.fromkeys(("grouped", "loop"), 1), dict.fromkeys(("grouped", "loop"), RuntimeError("broken"))
    Clock(monkeypatch, fails if where == "forward" else works, fails if where == "backward" else works)
    made = tuned([case_of(DENSE)], CPU)
    assert made.choice(case_of(DENSE)) is None
    assert made.measured == {}


def test_what_is_no_lack_of_a_kernel_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, dict.fromkeys(("grouped", "loop"), KeyboardInterrupt()), {})
    with pytest.raises(KeyboardInterrupt):
        tuned([case_of(DENSE)], CPU)


def test_what_was_measured_before_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, {"grouped": QUICK, "loop": SLOW}, {"grouped": QUICK, "loop": SLOW})
    before = tuned([case_of(DENSE)], CPU)
    Clock(monkeypatch, {"grouped": SLOW, "loop": QUICK}, {"grouped": SLOW, "loop": QUICK})
    more = tuned([case_of(DENSE), case_of(DENSE, per=2)], CPU, before)
    assert [more.choice(case_of(DENSE, per)) for per in (1, 2)] == [("grouped", "grouped"), ("loop", "loop")]
    elsewhere = Tuning("abacus", before.release, before.threads, before.measured)
    assert tuned([case_of(DENSE)], CPU, elsewhere).choice(case_of(DENSE)) == ("loop", "loop")


def test_there_is_nothing_to_choose_for_one_image_or_one_kernel_or_another_device() -> None:
    dense = case_of(DENSE)
    assert tuned([dense._replace(batch=1), dense._replace(device="cuda"), case_of(CASES["linear"])], CPU).measured == {}
    assert tuned([dense._replace(device="meta")], torch.device("meta")).measured == {}


@every_case
def test_every_case_is_measured(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_SECONDS_A_ROUND", 0)
    for layout, dtype in product(layouts(case), (torch.float32, torch.bfloat16)):
        one = case_of(case, 2, layout, dtype)
        kernels_ = kernels.able(one)
        measured = tuned([one], CPU).measured
        assert bool(measured) == (len(kernels_) > 1)
        for found in measured.values():
            assert list(found.forward) == list(found.backward) == kernels_


def test_measuring_draws_no_random_numbers_and_computes_without_gradients() -> None:
    case, state = case_of(DENSE, dtype=torch.float32), torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        tuned([case], CPU)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_under_autocast_a_case_is_of_its_precision(dtype: torch.dtype) -> None:
    """Whether weights are made again or not, and whether the input is lowered yet."""
    recorder = Recorder()
    input, weight, _ = DENSE.tensors(dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        applied(DENSE.operation, input, weight, None, recorder)
        x, rows = input.requires_grad_(), weight.requires_grad_()
        selecting = torch.rand(len(weight), len(rows), dtype=dtype).softmax(1)
        recomputed(DENSE.operation, x, WeightBox._generate, selecting, rows, tuning=recorder)
    (case,) = recorder.cases
    assert case.dtype == (dtype if dtype == torch.float64 else torch.bfloat16)


def some() -> Tuning:
    """Of every kind of operation, with odd numbers."""
    cases = [case_of(CASES[name], 2) for name in ("conv1d", "conv2d, point", "transposed, everything")]
    cases += [case_of(DENSE, layout="channels_last", dtype=torch.bfloat16)]
    measured = {}
    for i, case in enumerate(cases):
        names = kernels.able(case)
        times: Any = {name: 0.1 + (i + j) / 3 for j, name in enumerate(names)}
        measured[case] = measuring.Measured(kernels.Choice(names[0], names[-1]), names[-1], times, times)
    return Tuning.of_device(CPU, measured)


def test_a_file_keeps_it_bit_by_bit(tmp_path: Path) -> None:
    made = some()
    made.save(tmp_path / "tuning.json")
    read = Tuning.load(tmp_path / "tuning.json")
    assert read == made
    assert {type(case.operation) for case in read.measured} == {Convolution}
    read.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "tuning.json").read_bytes()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["again.json", "tuning.json"]


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "no version": lambda data: data.pop("version"),
    "no cases": lambda data: data.pop("cases"),
    "cases of another kind": lambda data: data.update(cases=[1]),
    "no threads": lambda data: data.update(threads="many"),
    "an unknown kernel": lambda data: data["cases"][0]["choice"].update(forward="winograd"),
    "a kernel for another operation": lambda data: data["cases"][0]["choice"].update(forward="matmul"),
    "a kernel for compilers": lambda data: data["cases"][0]["choice"].update(backward="unfolded"),
    "a rule that is none": lambda data: data["cases"][0].update(by_rule=None),
    "what was not measured": lambda data: data["cases"][1]["forward"].pop("matmul"),
    "a time that is none": lambda data: data["cases"][0]["forward"].update(loop="long"),
    "a time without end": lambda data: data["cases"][0]["forward"].update(loop=float("nan")),
    "no dtype": lambda data: data["cases"][0].update(dtype="nn"),
    "one image": lambda data: data["cases"][0].update(batch=1),
    "an unknown setting": lambda data: data["cases"][0]["operation"].update(fan=1),
    "an unknown operation": lambda data: data["cases"][0].update(operation="pool"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    data = json.loads(some().to_json())
    DAMAGE[damage](data)
    path.write_text(json.dumps(data))
    with pytest.raises(TuningError, match=r"tuning\.json: It holds no tuning \(\w+: .*hair\.tune"):
        Tuning.load(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"3", b"\xff\xfe", b'"text"'])
def test_what_is_no_tuning_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tuning.json").write_bytes(content)
    with pytest.raises(TuningError, match=r"tuning\.json: It holds no tuning"):
        Tuning.load(tmp_path / "tuning.json")


def test_a_newer_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tuning.json").write_text(json.dumps({**json.loads(some().to_json()), "version": 2, "cases": "others"}))
    with pytest.raises(TuningError, match=r"is of version 2, and this hairify reads version 1\. Install a newer"):
        Tuning.load(tmp_path / "tuning.json")
    with pytest.raises(FileNotFoundError):
        Tuning.load(tmp_path / "none.json")


def test_it_fits_the_same_device_threads_and_release(monkeypatch: pytest.MonkeyPatch) -> None:
    made = some()
    assert made.fits(CPU)
    assert not made.fits(torch.device("meta"))
    for other in ({"device": "abacus"}, {"release": "1.0"}, {"threads": made.threads + 1}):
        assert not replace(made, **other).fits(CPU)
    monkeypatch.setattr(torch, "get_num_threads", lambda: made.threads + 1)
    assert not made.fits(CPU)


def test_choices_of_triton_are_read_anywhere_and_fit_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(DENSE, dtype=torch.float32)._replace(device="cuda")
    times: Any = {"grouped": 2.0, "loop": 3.0, "triton": 1.0}
    found = measuring.Measured(kernels.Choice("triton", "grouped"), "grouped", times, times)
    made = Tuning.of_device(CPU, {case: found})
    for has in (False, True):
        monkeypatch.setattr("hairify.functional._tuning.has_triton", lambda has=has: has)
        read = Tuning.from_json(made.to_json())
        assert read == made
        assert read.fits(CPU) == has
        assert read.lacks_triton == (not has)
    assert made.fits(CPU)  # which a copy must not carry to where there is none
    monkeypatch.setattr("hairify.functional._tuning.has_triton", lambda: False)
    assert not pickle.loads(pickle.dumps(made)).fits(CPU)


def test_no_choice_changes_how_float32_is_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA convolutions round to TF32 by default, products do not."""
    point = case_of(POINT, dtype=torch.float32)._replace(device="cuda")
    monkeypatch.setattr(kernels, "convolutions_round", lambda: True)
    for products, alone in ((False, True), (True, False)):
        monkeypatch.setattr(kernels, "products_round", lambda products=products: products)
        assert (kernels.able(point) == ["matmul"]) == alone
        assert len(kernels.able(point._replace(dtype=torch.bfloat16))) > 1
        assert len(kernels.able(case_of(DENSE, dtype=torch.float32)._replace(device="cuda"))) > 1
        assert len(kernels.able(case_of(POINT, dtype=torch.float32))) == 3


def test_offsets_in_a_row_are_of_32_bits() -> None:
    case = case_of(DENSE, dtype=torch.float32)._replace(device="cuda", weight=torch.Size((4, 96, 3, 3)))
    assert "triton" in kernels.computing(case._replace(input=torch.Size((3, 96, 4000, 5000))))
    assert "triton" not in kernels.computing(case._replace(input=torch.Size((3, 96, 4000, 6000))))
    wider = case._replace(input=torch.Size((3, 1, 4000, 5000)), weight=torch.Size((128, 1, 3, 3)))
    assert "triton" not in kernels.computing(wider)


def test_what_is_shown() -> None:
    lines = str(some()).splitlines()
    assert lines[0].startswith("Tuning on ")
    assert lines[0].endswith(": 4 of 4 cases differ from the rules")
    assert lines[2].startswith("  1×1 convolution, 3 weights (6, 4, 1, 1), input (6, 4, 5, 7), float64: ")
    assert lines[2].endswith(
        "forward matmul (0.433 ms; grouped 0.767; loop 1.1), backward loop (1.1 ms; matmul 0.433; grouped 0.767); "
        "by rule loop"
    )
    assert "(transposed, 2 groups)" in lines[3]
    assert "bfloat16, channels last" in lines[4]
    assert all(len(line) < 240 for line in lines)
    assert "linear" in str(Tuning("a", "b", 0, {case_of(CASES["linear"]): next(iter(some().measured.values()))}))


def test_compilers_and_open_sizes_go_by_the_rules() -> None:
    def call(input: Tensor, weight: Tensor) -> Tensor:
        return applied(DENSE.operation, input, weight, None, chooser)

    chooser = Always("loop", "loop")
    input, weight, _ = DENSE.tensors()
    expected = call(input, weight)
    asked = chooser.asked
    got = torch.compile(call, backend="eager")(input, weight)
    assert (asked, chooser.asked) == (1, 1)
    assert_close(got, expected, 1e-13)


def test_linear_operations_are_kept_too() -> None:
    """Though there is nothing to choose for them yet."""
    case = case_of(CASES["linear"])
    one = measuring.Measured(kernels.Choice("matmul", "matmul"), "matmul", {"matmul": 1.0}, {"matmul": 2.0})
    made = Tuning.of_device(CPU, {case: one})
    assert Tuning.from_json(made.to_json()) == made
    assert isinstance(next(iter(made.measured)).operation, Linear)
    assert (made.differing, one.differs) == (0, False)
