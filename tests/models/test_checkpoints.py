"""Loading published checkpoints strictly."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import published_state
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
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


def behind(prefix: str, state: dict[str, Tensor]) -> dict[str, Any]:
    return {prefix + key: value for key, value in state.items()}


WRAPPINGS = ("state_dict", "params", "params_ema", "model", "model_state_dict", "net", "ema", "state_dict_ema", "mine")
PREFIXES = ("net.", "module.", "module.net.", "model.", "_orig_mod.", "module._orig_mod.", "model.net_g.module.")


@pytest.mark.parametrize(
    ("wrapping", "prefix"), [*((one, "net.") for one in (None, *WRAPPINGS)), *((None, one) for one in PREFIXES)]
)
def test_wrappings_and_prefixes(wrapping: str | None, prefix: str, tmp_path: Path) -> None:
    state, model = SMALL["restormer"]().state_dict(), SMALL["restormer"]()
    checkpoint = behind(prefix, state)
    torch.save({wrapping: checkpoint, "epoch": 3} if wrapping else checkpoint, tmp_path / "published.ckpt")
    load_weights(model, str(tmp_path / "published.ckpt"))
    assert_loaded(model, state)


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))


class Options:
    """A class of the training code."""

    def __init__(self) -> None:
        self.rate, self.sizes = 1e-4, [1, 2]


def trained_with(state: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Any]:
    """Checkpoints of which `state` is to be taken, with what wrappers, averages and tools add; `other` is not meant."""
    network, compiled = two_layers(), two_layers()
    network.load_state_dict(state)
    compiled.load_state_dict(state)
    compiled[2] = torch.compile(compiled[2])
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2, 3, 8, 8)).sum().backward()
    counts = {name: torch.zeros(1) for name in ("total_ops", "0.total_params", "2.total_ops")}
    discriminator = nn.Linear(2, 2).state_dict()
    network.load_state_dict(state)
    beside = {
        "score": np.float32(31.2),
        "best": [np.float64(3), np.int64(7), np.arange(3)],
        "where": Path("runs"),
        "when": datetime.datetime(2020, 1, 2),
        "options": argparse.Namespace(rate=np.float64(1e-4), folder=Path("data")),
        "more": Options(),
        "optimizer": optimizer.state_dict(),
    }
    return {
        "a part compiled": compiled.state_dict(),
        "AveragedModel": AveragedModel(nn.DataParallel(network)).state_dict(),
        "operations counted": state | counts,
        "one of two networks": {"state_dict": behind("generator.", state) | behind("discriminator.", discriminator)},
        "one of two files": {"netG": state, "netD": discriminator},
        "averages behind a prefix": behind("model.", other) | behind("ema_model.", state),
        "averages in a dict": {"model": other, "ema": {"module": state, "decay": 0.999}},
        "a dict within a dict": {"checkpoint": {"model": {"state_dict": state}}},
        "averages by another name": {"swa_model": AveragedModel(network).state_dict(), "model": other},
        "averages with a counter": {"averaged_weights": state, "weights": other},
        "what lies beside": {"state_dict": state} | beside,
        "what lies among the names": state | {"epoch": 3, "score": np.float32(31.2), "options": argparse.Namespace()},
        "a tensor beside": {"model": {"net": state, "step": torch.tensor(3)}, "best": torch.tensor(31.2)},
    }


@pytest.mark.parametrize("case", trained_with(*(two_layers().state_dict() for _ in range(2))))
def test_what_training_code_adds_is_passed_over(case: str, tmp_path: Path) -> None:
    state, other, model = two_layers().state_dict(), two_layers().state_dict(), two_layers()
    torch.save(trained_with(state, other)[case], tmp_path / "trained.pth")
    load_weights(model, tmp_path / "trained.pth")
    assert_loaded(model, state)


def test_names_of_a_compiled_network_and_of_its_original_fit_both() -> None:
    state, model = two_layers().state_dict(), two_layers()
    load_weights(torch.compile(model), state)
    assert_loaded(model, state)


def test_files_of_the_form_before_1_6_may_have_scores_and_options(tmp_path: Path) -> None:
    state, model = two_layers().state_dict(), two_layers()
    content = {"state_dict": state, "score": np.float64(3), "options": argparse.Namespace(rate=np.float32(1))}
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    load_weights(model, tmp_path / "old.pth")
    assert_loaded(model, state)


class Several(dict[str, Any]):
    """A dict of the training code, which is built by code."""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda state: {"a": state, "b": state}, r"several state_dicts, under 'a', 'b'"),
        (lambda state: {"ema_1": state, "ema_2": state}, r"several state_dicts, under 'ema_1', 'ema_2'"),
        (lambda state: behind("net.", state) | behind("model.", state), r"several times, behind 'model\.', 'net\.'"),
        (lambda state: behind("mine.", state), r"stand behind 'mine\.' there: give the state_dict without that"),
        (lambda state: state | behind("_orig_mod.", state), r"twice, with `_orig_mod\.`"),
        (lambda _: two_layers(), r"a whole module.*weights_only=False\)\.state_dict\(\)"),
        (lambda _: {"model": two_layers()}, r"a whole module.*weights_only=False\)\['model'\]\.state_dict\(\)"),
        (lambda state: {"net": state, "options": Several(a=1)}, r"without running code.*weights alone.*'weights\.pth'"),
        (lambda state: {"net": state, "options": slice(3)}, r"without running code: it holds slice.*weights alone"),
    ],
)
def test_what_is_not_clear_or_not_safe_is_refused_with_a_way_out(
    content: Callable[[dict[str, Tensor]], Any], words: str, tmp_path: Path
) -> None:
    model = two_layers()
    before = snapshot(model)
    torch.save(content(two_layers().state_dict()), tmp_path / "trained.pth")
    with pytest.raises(CheckpointError, match=words):
        load_weights(model, tmp_path / "trained.pth")
    assert_unchanged(model, before, random=False)


@pytest.mark.filterwarnings("ignore")  # of TorchScript, that it is old, and of loading it
def test_a_program_of_torchscript_is_named(tmp_path: Path) -> None:
    torch.jit.script(two_layers()).save(tmp_path / "program.pt")
    with pytest.raises(CheckpointError, match=r"TorchScript program.*torch\.jit\.load"):
        load_weights(two_layers(), tmp_path / "program.pt")


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
        (lambda s: without(s, "output.weight") | {"epoch": 3}, ["no state_dict"]),
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
    (tmp_path / "empty.ckpt").touch()
    torch.save(torch.zeros(100), tmp_path / "whole.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:500])
    damaged = "cannot be read as a checkpoint: it is empty, cut off, or nothing that torch.save made"
    refused = {"noise": damaged, "empty": damaged, "cut": damaged, "absent": "No such file", "list": "no state_dict"}
    for name, text in refused.items():
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
