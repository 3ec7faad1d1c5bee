"""Losses, averages, layers that are never called, the optimizer, checkpoints and logs, each by itself."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_runs import Experts, Plain, Same, Skipping, converted, recipe, seeded

from hairify import hairify
from hairify._support.isolation import SEED
from hairify.errors import TrainingError
from hairify.training import StepReport, l1_loss
from hairify.training._averaging import WeightAverage
from hairify.training._checkpoints import About, Checkpoint, Checkpoints
from hairify.training._logs import RunLog
from hairify.training._optimizer import adamw, load_state_tensors, state_tensors
from hairify.training._randomness import seed_all
from hairify.training._reachability import added_parameters, reached, teaches_giv


def test_l1_loss_is_of_each_image() -> None:
    class Twice(nn.Module):
        """As AirNet, it takes two images."""

        def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
            return [x + y, x]

    degraded, clean = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    expected = [np.abs(2 * x - y).mean() for x, y in zip(degraded.numpy(), clean.numpy(), strict=True)]
    assert l1_loss(Twice(), degraded, clean).tolist() == pytest.approx(expected, rel=1e-6)


def test_average_in_closed_form() -> None:
    """Of weights 1, 2, 3, ... the average at step t keeps min(decay, (1 + t) / (10 + t))."""
    layer = nn.Linear(1, 1)
    layer.bias.requires_grad_(False)
    nn.init.zeros_(layer.weight)
    average, expected = WeightAverage(layer, 0.25), 0.0
    for step in range(1, 6):
        nn.init.constant_(layer.weight, step)
        average.update(step)
        kept = [2 / 11, 0.25, 0.25, 0.25, 0.25][step - 1]
        expected = kept * expected + (1 - kept) * step
    assert average.tensors().keys() == {"weight"}
    assert average.tensors()["weight"].item() == pytest.approx(expected, rel=1e-6)
    other = WeightAverage(layer, 0.25)
    assert other.tensors()["weight"].item() == 5
    other.load(average.tensors())
    assert torch.equal(other.tensors()["weight"], average.tensors()["weight"])
    assert layer.weight.item() == 5


def test_what_a_loss_reaches_is_found() -> None:
    network, x = seeded(Same), torch.rand(2, 3, 8, 8)
    names = {name for name, _ in network.named_parameters()}
    assert reached(network, l1_loss, x, 1 - x, names) == names - {"never.weight", "never.bias"}
    network.first.weight.requires_grad_(False)
    with torch.no_grad():
        assert reached(network, l1_loss, x, 1 - x, names) == names - {"never.weight", "never.bias", "first.weight"}
    assert all(parameter.grad is None for parameter in network.parameters())
    plain = seeded(Plain).train()
    assert len(reached(plain, l1_loss, x, 1 - x, ["last.bias"])) == 6
    assert plain.norm.num_batches_tracked == 0
    assert plain.training
    hair = converted().train()  # whose HSNs pass no gradient on in the first step
    added = added_parameters(hair)
    assert added == {name for name, p in hair.named_parameters() if any(p is q for q in hair.hair_parameters())}
    assert added <= reached(hair, l1_loss, x, 1 - x, added)


class Seldom(nn.Module):
    """One block is skipped by all but one in a thousand passes, and by none in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return y if self.training and torch.rand(()) > 0.001 else y + self.block(y)


class ByPython(nn.Module):
    """One of two blocks is run, as Python's own random numbers have it; in evaluation the first."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[int(self.training and random.random() < 0.5)](x)


class ByNumpy(ByPython):
    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[int(self.training and np.random.rand() < 0.5)](x)


@pytest.mark.parametrize("make", [ByPython, ByNumpy])
def test_each_pass_has_random_numbers_of_its_own_of_every_kind(make: type[nn.Module]) -> None:
    network, x = seeded(make).train(), torch.rand(2, 3, 8, 8)
    found = reached(network, l1_loss, x, 1 - x, ["none of them"])
    assert found == {name for name, _ in network.named_parameters()}


def test_a_giv_that_one_pass_of_several_teaches() -> None:
    """What is trained before the split is skipped in all passes but the one with a seed."""

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.seed = nn.Conv2d(3, 8, 1), 0

        def forward(self, x: Tensor) -> Tensor:
            y, drawn = self.conv(x), torch.rand(())
            first_of_seed = torch.rand((), generator=torch.Generator().manual_seed(self.seed))
            return y.detach() if self.training and drawn != first_of_seed else y

    network = nn.Sequential(seeded(First), *(nn.Conv2d(8, 8, 1) for _ in range(3)), nn.Conv2d(8, 3, 1))
    hair, x = hairify(network, split_at="0").train(), torch.rand(2, 3, 16, 16)
    first = hair.base.get_submodule("0")
    for seed, teaches in ((SEED, True), (SEED + 1, True), (SEED - 1, False)):
        first.seed = seed
        assert teaches_giv(hair, l1_loss, x, 1 - x) is teaches


def test_no_other_device_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` seeds all of them, and only the run's own is put back after it."""
    seeded_all: list[int] = []
    monkeypatch.setattr("torch.cuda.manual_seed_all", seeded_all.append)
    seed_all(3, torch.device("cpu"))
    drawn = torch.rand(2), np.random.rand(), random.random()
    assert seeded_all == []
    torch.manual_seed(3)
    assert seeded_all == [3]
    assert torch.equal(torch.rand(2), drawn[0])
    seed_all(3, torch.device("cpu"))
    assert (np.random.rand(), random.random()) == drawn[1:]


@pytest.mark.parametrize(
    ("make", "wanted"),
    [(Skipping, {f"blocks.{i}.weight"}) for i in range(6)] + [(Seldom, {"block.weight"}), (Experts, {"last.weight"})],
)
def test_one_pass_does_not_tell_what_is_trained(make: type[nn.Module], wanted: set[str]) -> None:
    network, x = seeded(make).train(), torch.rand(2, 3, 8, 8)
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].tolist()
    found = reached(network, l1_loss, x, 1 - x, wanted)
    assert wanted <= found
    assert found == reached(network, l1_loss, x, 1 - x, wanted)  # as other processes find it
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == numbers


def test_a_network_that_cannot_be_trained_on_its_patches_is_refused() -> None:
    class OneSize(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.zeros(3, 16, 16))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.position

    x = torch.rand(2, 3, 24, 24)
    with pytest.raises(TrainingError, match=r"cannot be trained on patches of 24×24 pixels.*`patch_size`"):
        reached(OneSize(), l1_loss, x, x, ["position"])


def test_optimizer() -> None:
    """The factors of low-rank boxes get no weight decay; frozen parameters are left out."""
    hair = converted("low_rank")
    frozen = next(hair.base_parameters()).requires_grad_(False)
    groups = adamw(hair, recipe(weight_decay=0.5, rates={"hsn": 0.25, "dac": 0.25})).param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.5, 0.0]  # the HSNs have a group of their own
    selecting = {id(p) for group in groups if group["relative_rate"] == 0.25 for p in group["params"]}
    assert selecting == {id(p) for p in hair.hsn.parameters()}
    assert groups[0]["betas"] == (0.9, 0.999)
    held = {id(p) for group in groups for p in group["params"]}
    assert held == {id(p) for p in hair.parameters()} - {id(frozen)}


def test_state_of_the_optimizer_by_name() -> None:
    network, settings = seeded(Same), recipe()
    optimizer = adamw(network, settings)
    for _ in range(2):
        network(torch.rand(1, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    saved = state_tensors(optimizer, network)
    assert saved["last.bias.step"] == 2
    assert torch.equal(saved["first.weight.exp_avg"], optimizer.state[network.first.weight]["exp_avg"])
    assert not any(name.startswith("never") for name in saved)
    again = adamw(network, settings)
    load_state_tensors(again, network, saved)
    for parameter, state in optimizer.state.items():
        assert all(torch.equal(again.state[parameter][key], value) for key, value in state.items())


def checkpoint(step: int) -> Checkpoint:
    about = About(step, 1.5, {"seed": 0, "tasks": ["a"]}, {"scale": 65536.0})
    return Checkpoint(about, {"model.x.y": torch.arange(3), "average.x.y": torch.ones(2), "losses": torch.zeros(0)})


def test_checkpoints(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert kept.paths() == []
    for step in (3, 9, 12):
        kept.save(checkpoint(step))
    assert [path.stem for path in kept.paths()] == ["00000009", "00000012"]
    newest, damaged = kept.newest()
    assert (newest.about, damaged) == (checkpoint(12).about, [])
    assert newest.part("model").keys() == {"x.y"}
    assert torch.equal(newest.part("model")["x.y"], torch.arange(3))
    assert kept.path(12).stat().st_mode == (tmp_path / "checkpoints").stat().st_mode & 0o666 | 0o100000
    kept.path(12).write_bytes(b"")
    assert kept.newest()[0].about.step == 9
    # What is damaged counts for nothing: it does not push out what can be read.
    kept.save(checkpoint(10))
    assert [path.stem for path in kept.paths()] == ["00000009", "00000010", "00000012"]


def test_a_checkpoint_from_a_newer_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoints(tmp_path, keep=1)
    with monkeypatch.context() as newer:
        newer.setattr("hairify.training._checkpoints.FORMAT_VERSION", 2)
        kept.save(checkpoint(1))
    with pytest.raises(TrainingError, match=r"00000001.safetensors has version 2; .* Install a newer hairify"):
        kept.newest()


def test_a_log_that_a_killed_run_left(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0, tensorboard=False)
    for step in (1, 2, 3):
        log.step(StepReport(step, 9, 0.5, {"haze": 0.5}, 1e-4, 2.0, 0))
    log.validation(2, {"SOTS": {"psnr": 20.0}})
    log.close()
    with log.path.open("a") as file:
        file.write('{"step": 1, "lo')
    RunLog(tmp_path, 2, tensorboard=False).close()
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2, 2]
    RunLog(tmp_path, 0, tensorboard=False).close()
    assert log.path.read_text() == ""
