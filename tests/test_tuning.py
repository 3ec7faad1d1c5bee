"""`hair.tune`: the same results, other kernels; it leaves no mark but its choices."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import UNet
from torch import Tensor, nn
from util import assert_close

import hairify as package
from hairify import HairModel, hairify
from hairify.errors import TuningError
from hairify.functional import Tuning
from hairify.functional import _measuring as measuring
from hairify.functional._kernels import Case, Choice, able
from hairify.functional._measuring import Measured, Recorder

SIZE = (2, 3, 32, 48)


@pytest.fixture(autouse=True)
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements, in place of real ones: other kernels than those of the rules, and unlike ones for gradients."""

    def measured(case: Case, device: torch.device) -> Measured:
        names = able(case)
        times: Any = dict.fromkeys(names, 1.0)
        rule = case.by_rule()
        other = next(name for name in names if name != rule)
        return Measured(Choice(other, rule), rule, times, times)

    monkeypatch.setattr(measuring, "_measured", measured)


def converted(network: Callable[[], nn.Module] = UNet, dtype: torch.dtype = torch.float64, **options: Any) -> HairModel:
    torch.manual_seed(0)
    hair = hairify(
        network(), example_inputs=torch.zeros(1, *SIZE[1:]), generator=torch.Generator().manual_seed(0), **options
    )
    for parameter in hair.boxes.parameters():  # rows that differ, as after training
        parameter.data += 0.05 * torch.randn_like(parameter)
    return hair.to(dtype)


def images(dtype: torch.dtype = torch.float64, count: int = SIZE[0]) -> Tensor:
    return torch.rand(count, *SIZE[1:], generator=torch.Generator().manual_seed(1), dtype=dtype)


def step(hair: HairModel, x: Tensor) -> dict[str, Tensor]:
    """Output and gradients of a training step."""
    hair.zero_grad()
    x = x.clone().requires_grad_()
    output = hair(x)
    output.square().sum().backward()
    grads = {name: p.grad for name, p in hair.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "x": x.grad, **grads}  # type: ignore[dict-item]


def assert_same_step(hair: HairModel, other: HairModel, x: Tensor) -> None:
    got, expected = (step(copy.deepcopy(one), x) for one in (hair, other))
    assert got.keys() == expected.keys()
    for name in got:
        assert_close(got[name], expected[name], 1e-11)


@pytest.mark.parametrize("box", ["full", "low_rank"])
@pytest.mark.parametrize("how", ["as it is", "kept", "made again", "checkpointed"])
def test_a_tuned_model_computes_the_same(box: str, how: str) -> None:
    plain = converted(box=box).train()
    if how in ("kept", "made again"):
        plain.recompute_weights(how == "made again")
    plain.checkpoint_blocks(how == "checkpointed")
    x = images()
    hair = copy.deepcopy(plain).tune(x)
    assert hair.tuning is not None
    assert hair.tuning.differing == len(hair.tuning.measured) > 2
    assert_same_step(hair, plain, x)
    with torch.no_grad():
        assert_close(hair.eval()(x), plain.eval()(x), 1e-12)


def test_what_is_chosen_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    hair, x = converted().train(), images()
    hair.tune(x)
    asked: dict[Case, Any] = {}
    monkeypatch.setattr(Tuning, "choice", lambda self, case: asked.setdefault(case, self.measured[case].choice))
    step(hair, x)  # a KeyError, had it a case that was not recorded
    assert asked.keys() == hair.tuning.measured.keys()  # type: ignore[union-attr]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_cases_are_those_of_a_training_step(autocast: bool, channels_last: bool) -> None:
    hair, x = converted(dtype=torch.float32).train(), images(torch.float32)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    seen = Recorder()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        hair.tune(x)
        with hair._context.recording(seen):
            hair(x).sum().backward()
    measured = hair.tuning.measured  # type: ignore[union-attr]
    assert measured.keys() == {case for case in seen.cases if len(able(case)) > 1}
    assert {case.dtype for case in measured} == {torch.bfloat16 if autocast else torch.float32}
    assert any(case.channels_last for case in measured) == channels_last


def test_nothing_is_chosen_for_one_image_or_one_giv() -> None:
    hair, x = converted(), images()
    assert hair.tune(x[:1]).tuning.measured == {}  # type: ignore[union-attr]
    with hair.conditioned_on(hair.giv(x[:1])):
        assert hair.tune(x).tuning.measured == {}  # type: ignore[union-attr]
    with hair.conditioned_on(hair.giv(x)):
        assert hair.tune(x).tuning.measured  # type: ignore[union-attr]


def test_tuning_leaves_no_mark() -> None:
    hair, x = converted().train(), images()
    state, random = {k: v.clone() for k, v in hair.state_dict().items()}, torch.get_rng_state()
    modes = {name: module.training for name, module in hair.named_modules()}
    assert hair.tune(x) is hair
    assert torch.equal(torch.get_rng_state(), random)
    assert {name: module.training for name, module in hair.named_modules()} == modes
    now = hair.state_dict()
    assert now.keys() == state.keys()
    assert all(torch.equal(now[k], state[k]) for k in state)
    assert all(p.grad is None for p in hair.parameters())


class Noisy(UNet):
    """Draws in evaluation mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.01 * torch.randn(x.shape, dtype=x.dtype))


def test_random_numbers_of_the_network_are_not_used_up() -> None:
    hair, state = converted(Noisy, dtype=torch.float32), torch.get_rng_state()
    hair.tune(images(torch.float32))
    assert torch.equal(torch.get_rng_state(), state)


def test_choices_add_up_until_they_are_dropped() -> None:
    hair, x = converted(), images()
    assert hair.tuning is None
    first = hair.tune(x).tuning
    more = hair.tune(images(count=3)).tuning
    assert first is not None
    assert more is not None
    assert first.measured.keys() < more.measured.keys()
    assert {case.batch for case in more.measured} == {2, 3}
    assert hair.use_tuning(None) is hair
    assert hair.tuning is None


def test_an_error_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    hair, x = converted(), images()
    before = hair.tune(x).tuning
    with pytest.raises(RuntimeError):
        hair.tune(torch.rand(2, 5, 32, 48).double())
    assert hair.tuning is before
    assert hair._context._local.recorder is None

    def broken(case: Case, device: torch.device) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "_measured", broken)
    with pytest.raises(KeyboardInterrupt):
        hair.tune(images(count=3))
    assert hair.tuning is before


@pytest.mark.parametrize("other", [{"device": "abacus"}, {"release": "1.0"}, {"threads": 99}])
def test_a_tuning_of_elsewhere_is_refused(other: dict[str, Any]) -> None:
    hair = converted()
    mine = hair.tune(images()).tuning
    assert mine is not None
    with pytest.raises(TuningError, match=r"measured on .* says nothing about .*hair\.tune\(images\)"):
        hair.use_tuning(Tuning(**{**vars(mine), **other}))
    assert hair.tuning is mine


def test_a_file_serves_another_model_of_the_kind(tmp_path: Path) -> None:
    hair, other = converted(), converted()
    tuning = hair.tune(images()).tuning
    assert tuning is not None
    tuning.save(tmp_path / "tuning.json")
    assert other.use_tuning(Tuning.load(tmp_path / "tuning.json")).tuning == tuning
    with torch.no_grad():
        assert torch.equal(other.eval()(images()), hair.eval()(images()))


def test_copies_and_pickles_keep_it_and_checkpoints_do_not(tmp_path: Path) -> None:
    hair, x = converted(dtype=torch.float32), images(torch.float32)
    plain = pickle.dumps(hair.state_dict())
    hair.tune(x)
    for twin in (copy.deepcopy(hair), pickle.loads(pickle.dumps(hair))):
        assert twin.tuning == hair.tuning
    assert pickle.dumps(hair.state_dict()) == plain
    package.save(hair, tmp_path / "hair.safetensors")
    loaded = package.load(tmp_path / "hair.safetensors", UNet())
    assert loaded.tuning is None
    tuning = hair.tuning
    hair.load_state_dict(loaded.state_dict())
    assert hair.tuning is tuning


def test_the_graph_of_a_tuned_model_is_that_of_an_untuned_one() -> None:
    hair, x = converted(), images()
    before = str(hair.graph().code)
    hair.tune(x)
    graph = hair.graph()
    assert str(graph.code) == before
    assert_close(graph(x), hair(x), 1e-12)


def test_a_copy_on_another_machine_goes_by_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is tuned there, or is back."""
    hair, x = converted(), images()
    hair.tune(x)
    twin = pickle.loads(pickle.dumps(hair))
    asked: list[Any] = []
    monkeypatch.setattr(Tuning, "choice", lambda self, case: asked.append(case))
    twin(x)
    assert asked
    asked.clear()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    twin(x)
    assert not asked
    assert twin.tuning == hair.tuning


def test_other_threads_go_by_what_was_chosen_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward of another thread, in the midst of a recording, is not recorded, and asks the tuning."""
    hair, x = converted(), images()
    before = hair.tune(x).tuning
    asked: list[str] = []
    monkeypatch.setattr(Tuning, "choice", lambda self, case: asked.append(threading.current_thread().name))

    def beside() -> None:
        with torch.no_grad():
            hair(images(count=3))

    def at_the_start(module: nn.Module, args: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=beside, name="beside")
            thread.start()
            thread.join()

    handle = hair.base.register_forward_pre_hook(at_the_start)
    found = hair.tune(x).tuning
    handle.remove()
    assert set(asked) == {"beside"}
    assert found == before


class Chain(nn.Sequential):
    """Few layers: compilers take a second for each."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_export_is_that_of_an_untuned_model(strict: bool) -> None:
    hair, x = converted(Chain, split_at="0").eval(), images()
    plain, tuned = (
        torch.export.export(one, (x,), strict=strict) for one in (copy.deepcopy(hair), copy.deepcopy(hair).tune(x))
    )
    assert [node.target for node in tuned.graph.nodes] == [node.target for node in plain.graph.nodes]


def test_a_compiled_model_is_not_compiled_anew() -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    hair, x = converted(Chain, split_at="0").eval(), images()
    compiled: Any = torch.compile(hair, backend=backend)
    with torch.no_grad():
        before = compiled(x)
        count = len(graphs)
        hair.tune(x)
        assert torch.equal(compiled(x), before)
    assert len(graphs) == count
