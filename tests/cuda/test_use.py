"""What people do with a model on a GPU: bake, keep in files, move, train in parallel, save memory, restore in tiles."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gpu
import pytest
import torch
import torch.distributed as dist
from gpu import DEVICE
from networks import Chain
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from util import START, assert_close, assert_differs, perturb

from hairify import HairModel, hairify, load, plan, save
from hairify.functional import Tuning

pytestmark = gpu.needed

TOLERANCE = START[torch.float64]


@pytest.fixture
def hair() -> HairModel:
    return copy.deepcopy(gpu.converted("nafnet")).to(DEVICE)


@pytest.fixture
def x() -> Tensor:
    return gpu.images().to(DEVICE)


def gradients(model: nn.Module, x: Tensor) -> Tensor:
    """All in one vector."""
    model.zero_grad()
    torch.manual_seed(0)
    model(x).square().mean().backward()
    return torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.grad is not None])


def test_tuned(hair: HairModel, x: Tensor, tmp_path: Path) -> None:
    expected, state = gradients(hair, x), torch.cuda.get_rng_state()
    tuning = hair.tune(x).tuning
    assert tuning is not None
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert {case.device for case in tuning.measured} == {"cuda"}
    assert tuning.device == torch.cuda.get_device_name(DEVICE)
    assert_close(gradients(hair, x), expected, TOLERANCE)
    tuning.save(tmp_path / "tuning.json")
    assert Tuning.load(tmp_path / "tuning.json") == tuning
    halved = hair.float()
    with torch.autocast("cuda", torch.bfloat16):
        halved.tune(x.float())
    assert {case.dtype for case in halved.tuning.measured} == {torch.float64, torch.bfloat16}  # type: ignore[union-attr]


def test_baked_conditioned_and_selected(hair: HairModel, x: Tensor) -> None:
    on_cpu = gpu.converted("nafnet")
    with torch.no_grad():
        giv, free = hair.giv(x), hair(x)
        assert_close(giv.cpu(), on_cpu.giv(x.cpu()), TOLERANCE)
        for name, vectors in on_cpu.selecting_vectors(x.cpu()).items():
            assert_close(hair.selecting_vectors(x)[name].cpu(), vectors, TOLERANCE)
        for image, own, expected in zip(x.split(1), giv.split(1), free.split(1), strict=True):
            assert_close(hair.bake(image)(image), expected, TOLERANCE)
            with hair.conditioned_on(own):
                for _ in range(2):  # made, and kept
                    assert_close(hair(image), expected, TOLERANCE)
        assert_differs(hair.bake(x[:1])(x[-1:]), free[-1:], 1e-4)


def test_from_a_file(hair: HairModel, x: Tensor, tmp_path: Path) -> None:
    """Saved on the GPU and read for the CPU, and the other way about."""
    expected, original = hair(x).detach().cpu(), gpu.BUILDERS["nafnet"]().double().eval()
    save(hair, tmp_path / "gpu.safetensors")
    read = load(tmp_path / "gpu.safetensors", original)
    assert {p.device.type for p in read.parameters()} == {"cpu"}
    assert_close(read(x.cpu()), expected, TOLERANCE)
    save(read, tmp_path / "cpu.safetensors")
    assert (tmp_path / "cpu.safetensors").read_bytes() == (tmp_path / "gpu.safetensors").read_bytes()
    back = load(tmp_path / "cpu.safetensors", original.to(DEVICE))
    assert {t.device.type for t in (*back.parameters(), *back.buffers())} == {DEVICE}
    assert_close(back(x).cpu(), expected, TOLERANCE)
    torch.save(hair.state_dict(), tmp_path / "state.pt")
    read.load_state_dict(torch.load(tmp_path / "state.pt", map_location="cpu", weights_only=True))
    assert_close(read(x.cpu()), expected, TOLERANCE)


def test_moved_after_it_was_conditioned(x: Tensor) -> None:
    hair = copy.deepcopy(gpu.converted("nafnet"))
    with torch.no_grad():
        giv = hair.giv(x.cpu())[:1]
        with hair.conditioned_on(giv):
            expected = hair(x.cpu())
        hair.to(DEVICE)
        with hair.conditioned_on(giv.to(DEVICE)):
            assert_close(hair(x).cpu(), expected, TOLERANCE)


class Dice(Chain):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(8, 8, 1), nn.Dropout(0.5), nn.Conv2d(8, 8, 1), nn.Dropout(0.5))

    def middle(self, x: Tensor) -> Tensor:
        return super().middle(x) + 0.01 * torch.rand_like(x)


@gpu.only
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_random_state_of_the_gpu_stays(device: str) -> None:
    torch.cuda.init()
    before = torch.cuda.get_rng_state()
    hair = hairify(Dice().to(device), split_at="split").train()
    assert torch.equal(torch.cuda.get_rng_state(), before)
    x = torch.rand(2, 3, 16, 24, device=device)
    torch.manual_seed(1)
    first, second = hair(x), hair(x)
    assert not torch.equal(first, second), "draws do not repeat"


@pytest.mark.parametrize("how", ["recomputed", "checkpointed"])
def test_what_is_made_again_gives_the_same_gradients(how: str) -> None:
    """With dropout, whose draws are those of the first time."""
    hair = perturb(hairify(Dice().double().to(DEVICE), split_at="split")).train()
    x = gpu.images().to(DEVICE)
    hair.recompute_weights(False)
    expected = gradients(hair, x)
    hair.recompute_weights(how == "recomputed").checkpoint_blocks(how == "checkpointed")
    assert_close(gradients(hair, x), expected, TOLERANCE)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group of one process."""
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "lo")
    meeting = f"file://{tmp_path / 'meeting'}"
    dist.init_process_group("nccl" if DEVICE == "cuda" else "gloo", init_method=meeting, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_distributed_data_parallel(hair: HairModel, x: Tensor) -> None:
    expected = gradients(copy.deepcopy(hair), x)
    wrapped = DistributedDataParallel(hair, device_ids=[torch.cuda.current_device()] if DEVICE == "cuda" else None)
    for _ in range(2):
        assert_close(gradients(wrapped, x), expected, TOLERANCE)


LAYERS = 6


def heavy() -> HairModel:
    """Weights that are large beside the maps, so that those of single images tell."""
    wide = nn.Sequential(nn.Conv2d(8, 256, 1), nn.Conv2d(256, 256, 3, padding=1), nn.Conv2d(256, 8, 1))
    body = [copy.deepcopy(wide) for _ in range(LAYERS)]
    return perturb(hairify(Chain(*body).to(DEVICE), split_at="split")).train()


@gpu.only
def test_memory_of_a_training_step() -> None:
    hair, x = heavy(), torch.rand(8, 3, 32, 32, device=DEVICE)
    peaks = {}
    for recompute in (True, False):
        hair.recompute_weights(recompute)
        held = []
        for _ in range(3):
            torch.cuda.reset_peak_memory_stats()
            gradients(hair, x)
            gc.collect()
            held.append(torch.cuda.memory_allocated())
        peaks[recompute] = torch.cuda.max_memory_allocated()
        assert held[1] == held[2], "a step leaves something behind"
    kept = sum(8 * 256 * 256 * 9 * 4 for _ in range(LAYERS))
    assert peaks[True] < peaks[False] - kept / 2


class Greedy(Chain):
    def __init__(self, when: Callable[[nn.Module, Tensor], bool]) -> None:
        super().__init__(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
        self.when = when

    def middle(self, x: Tensor) -> Tensor:
        if self.when(self, x):
            torch.empty(2**44, dtype=torch.uint8, device=x.device)
        return super().middle(x)


@gpu.only
@pytest.mark.parametrize("when", [lambda model, x: True, lambda model, x: len(x) == 2, lambda model, x: model.training])
def test_lack_of_memory_is_passed_on(when: Any) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        plan(Greedy(when).to(DEVICE))


def test_calibrated_on_the_gpu(x: Tensor) -> None:
    """The very numbers that the CPU finds."""
    network = gpu.BUILDERS["nafnet"]().double().eval()
    found = []
    for device in ("cpu", DEVICE):
        converted = hairify(copy.deepcopy(network).to(device))
        found.append(converted.calibrate(gpu.images(12).to(device)))
    expected, got = (hair.giv(x.to(next(hair.parameters()).device)).detach().cpu() for hair in found)
    assert found[1].is_calibrated
    assert_close(got, expected, 1e-6)
    for name, vectors in found[0].selecting_vectors(x.cpu()).items():
        assert_close(found[1].selecting_vectors(x)[name].cpu(), vectors, 1e-6)


def test_restored_in_tiles(hair: HairModel) -> None:
    restoring = pytest.importorskip("hairify.restoring", reason="needs what reads photographs")
    image, settings = gpu.images(1, (72, 104)), restoring.TilingSettings(48, 16)
    expected = restoring.restore_tiled(gpu.converted("nafnet"), image, settings, 4)
    for given in (image, image.to(DEVICE)):
        got = restoring.restore_tiled(hair, given, settings, 4)
        assert got.device == given.device
        assert_close(got.cpu(), expected, TOLERANCE)


def test_a_training_run(tmp_path: Path) -> None:
    pytest.importorskip("hairify.training", reason="needs what reads photographs and trains")
    import training_runs

    precision = "bf16" if DEVICE == "cuda" else "no"
    options: dict[str, Any] = {"cpu": DEVICE == "cpu", "mixed_precision": precision, "steps": 4, "calibration": 8}
    result = training_runs.run(training_runs.converted("low_rank"), tmp_path, **options)
    assert all(torch.tensor(result.losses).isfinite())
    assert {p.device.type for p in result.model.parameters()} == {DEVICE}
