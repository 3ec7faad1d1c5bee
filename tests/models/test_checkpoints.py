"""Loading published checkpoints strictly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import published_state
from torch import Tensor, nn
from util import assert_unchanged, snapshot

from hairify.errors import CheckpointError
from hairify.models import airnet, load_published, load_weights, promptir, restormer, transweather

SMALL: dict[str, Callable[[], nn.Module]] = {
    "airnet": lambda: airnet(dim=8, groups=2, blocks=1, batch_size=1),
    "promptir": lambda: promptir(
        dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, prompt_dims=(4, 8, 8), prompt_sizes=(8, 4, 2)
    ),
    "restormer": lambda: restormer(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1),
    "transweather": lambda: transweather(dims=(16, 16, 32, 32), depths=(1, 1, 1, 1)),
}


def assert_loaded(model: nn.Module, state: dict[str, Tensor]) -> None:
    assert model.state_dict().keys() == state.keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("as_file", [False, True])
def test_every_network_takes_a_checkpoint_of_its_own(name: str, as_file: bool, tmp_path: Path) -> None:
    state = SMALL[name]().state_dict()
    model = SMALL[name]()
    if as_file:
        torch.save(state, tmp_path / "published.ckpt")
    load_weights(model, tmp_path / "published.ckpt" if as_file else state)
    assert_loaded(model, state)


@pytest.mark.parametrize("name", ["airnet", "promptir", "transweather"])
@pytest.mark.slow
def test_the_published_sizes(name: str) -> None:
    model = {"airnet": airnet, "promptir": promptir, "transweather": transweather}[name]().double()
    state = published_state(name)
    load_weights(model, {"state_dict": {f"net.{key}": value for key, value in state.items()}, "epoch": 3})
    assert_loaded(model, state)


@pytest.mark.parametrize("wrapping", [None, "state_dict", "params", "params_ema", "model"])
@pytest.mark.parametrize("prefix", ["", "net.", "module.", "module.net."])
def test_wrappings_and_prefixes(wrapping: str | None, prefix: str, tmp_path: Path) -> None:
    state, model = SMALL["restormer"]().state_dict(), SMALL["restormer"]()
    checkpoint: dict[str, Any] = {prefix + key: value for key, value in state.items()}
    torch.save({wrapping: checkpoint, "epoch": 3} if wrapping else checkpoint, tmp_path / "published.ckpt")
    load_weights(model, str(tmp_path / "published.ckpt"))
    assert_loaded(model, state)


def test_averaged_weights_come_before_others() -> None:
    first, second, model = (SMALL["restormer"]() for _ in range(3))
    load_weights(model, {"params": first.state_dict(), "params_ema": second.state_dict()})
    assert_loaded(model, dict(second.state_dict()))


def test_a_prefix_that_the_model_has_itself_stays() -> None:
    model, other = (nn.ModuleDict({"net": nn.Linear(2, 2), "model": nn.Linear(2, 2)}) for _ in range(2))
    load_weights(model, {f"module.{key}" if key == "net.bias" else key: v for key, v in other.state_dict().items()})
    assert torch.equal(model["net"].weight, other["net"].weight)


def test_dtype_and_mode_are_the_models() -> None:
    model = SMALL["restormer"]().double().eval()
    state = {key: value.half() for key, value in SMALL["restormer"]().state_dict().items()}
    load_weights(model, state)
    assert not model.training
    assert model.output.weight.dtype == torch.float64
    assert torch.equal(model.output.weight.half(), state["output.weight"])


def test_a_network_without_memory_is_refused() -> None:
    with torch.device("meta"):
        model = SMALL["restormer"]()
    with pytest.raises(CheckpointError, match="on the meta device"):
        load_weights(model, SMALL["restormer"]().state_dict())


def without(state: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in keys}


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (lambda s: without(s, "output.weight", "up2_1.body.0.weight"), ["2 missing", "'output.weight'"]),
        (lambda s: s | {"prompt1.prompt_param": torch.zeros(1)}, ["1 unexpected: 'prompt1.prompt_param'"]),
        (lambda s: s | {"output.weight": torch.zeros(3, 48, 3, 3)}, ["1 of another shape", "(3, 48, 3, 3)", "(3, 16,"]),
        (lambda s: {f"other.{key}": value for key, value in s.items()}, ["missing", "unexpected", ", ..."]),
        (lambda s: s | {"net.output.weight": s["output.weight"]}, ["twice"]),
        (lambda s: s | {"output.weight": s["output.weight"].to("meta")}, ["cannot be copied"]),
        (lambda s: s | {"epoch": 3}, ["no state_dict"]),
        (lambda s: {"state_dict": {}}, ["no state_dict"]),
        (lambda s: {"optimizer": {}, "epoch": 3}, ["no state_dict", "'params_ema'"]),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(
    change: Callable[[dict[str, Tensor]], dict[str, Any]], texts: list[str]
) -> None:
    model = SMALL["restormer"]()
    before = snapshot(model)
    with pytest.raises(CheckpointError) as error:
        load_weights(model, change(dict(SMALL["restormer"]().state_dict())))
    for text in texts:
        assert text in str(error.value)
    assert_unchanged(model, before, random=False)


def test_the_message_tells_the_options_for_the_way_out() -> None:
    with pytest.raises(CheckpointError, match=r"Restormer.*with the options"):
        load_weights(SMALL["restormer"](), restormer(dim=16, num_blocks=(1,) * 4).state_dict())


@pytest.mark.parametrize(("batch_size", "text"), [(6, r"`airnet\(batch_size=6\)`"), (0.5, "with the options")])
def test_the_queue_of_airnet_tells_its_batch_size(batch_size: float, text: str) -> None:
    model = SMALL["airnet"]()
    state = model.state_dict() | {"E.E.queue": torch.zeros(256, int(256 * batch_size))}
    with pytest.raises(CheckpointError, match=text):
        load_weights(model, state)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.ckpt").write_bytes(b"not a checkpoint")
    torch.save([torch.zeros(1)], tmp_path / "list.ckpt")
    for name, text in [("noise", "cannot be read"), ("absent", "cannot be read"), ("list", "no state_dict")]:
        with pytest.raises(CheckpointError, match=text):
            load_weights(SMALL["restormer"](), tmp_path / f"{name}.ckpt")


class Harmful:
    """Unpickling it would run code."""

    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Harmful, "ran", True)


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "extra": Harmful()}, tmp_path / "harmful.ckpt")
    for load in (lambda path: load_weights(SMALL["restormer"](), path), load_published):
        with pytest.raises(CheckpointError, match="cannot be read"):
            load(tmp_path / "harmful.ckpt")
    assert not Harmful.ran
