"""Checkpoints: what is saved comes back; what is damaged or foreign is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from networks import NETWORKS, DnCNN, UNet, small_restormer
from torch import Tensor, nn
from util import assert_close, assert_differs, assert_unchanged, perturb, snapshot

from hairify import HairError, hairify, load, plan, save
from hairify.errors import CheckpointError, ExampleInputError, PlanMismatchError
from hairify.nn import MomentsDAC
from hairify.planning import _planner as planner

X = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("added_only", [False, True])
def test_round_trip_without_tracing(
    name: str, added_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = NETWORKS[name]().eval()
    hair, start = perturb(hairify(trained)), hairify(trained)
    if added_only:  # what belongs to the base comes from the base
        hair.base.load_state_dict(start.base.state_dict())
    path = tmp_path / "hair.safetensors"
    save(hair, path, added_only=added_only)
    monkeypatch.setattr(planner, "Probe", None)
    torch.manual_seed(99)
    base = trained if added_only else NETWORKS[name]().eval()
    before = snapshot(base)
    loaded = load(path, base)
    assert_unchanged(base, before)
    assert loaded.plan == hair.plan
    assert list(loaded.state_dict()) == list(hair.state_dict())
    with torch.no_grad():
        assert torch.equal(loaded(X), hair(X))
        if name != "nafnet":  # whose zero scales hide its blocks in the base alone
            assert_differs(start(X), hair(X), 1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["hair.safetensors"]


def test_added_only_is_small_and_holds_no_parameter_of_the_base(tmp_path: Path) -> None:
    hair = hairify(UNet())
    save(hair, tmp_path / "added.safetensors", added_only=True)
    with safetensors.safe_open(tmp_path / "added.safetensors", "pt") as file:
        names = set(file.keys())
    buffers = {f"base.{name}" for name, _ in hair.base.named_buffers()}
    assert names == {k for k in hair.state_dict() if not k.startswith("base.")} | buffers


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    hair = hairify(UNet())
    for name in "ab":
        save(hair, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class Tied(nn.Module):
    """One parameter under two names, and a buffer that is a view of another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(3, 3, 3, 1, 1)
        self.b.weight = self.a.weight
        self.c, self.d = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        table = torch.arange(6.0)
        self.register_buffer("table", table)
        self.register_buffer("part", table[:3])

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(self.b(self.a(x)))) + self.part.view(-1, 1, 1)


def test_tied_parameters_stay_tied(tmp_path: Path) -> None:
    hair = perturb(hairify(Tied(), split_at="b"))
    save(hair, tmp_path / "tied")
    loaded = load(tmp_path / "tied", Tied())
    assert torch.equal(loaded(X), hair(X))
    assert loaded.base.a.weight is loaded.base.b.weight
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), hair.state_dict().values(), strict=True))


class Mean(nn.Module):
    def __init__(self, channels: int = 32, size: int = 5) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, size)

    def forward(self, feature: Tensor) -> Tensor:
        return self.fc(feature.mean((2, 3)))


def test_a_foreign_dac_is_asked_for(tmp_path: Path) -> None:
    hair = perturb(hairify(UNet().eval(), dac=Mean, giv_dim=7))
    assert hair.plan.giv_dim == 7
    save(hair, tmp_path / "f")
    with pytest.raises(PlanMismatchError, match=r"DAC of your own \(Mean\).*`dac=\.\.\.`"):
        load(tmp_path / "f", UNet())
    for dac in (Mean, Mean(32, 7)):
        assert torch.equal(load(tmp_path / "f", UNet().eval(), dac=dac)(X), hair(X))


def write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    safetensors.torch.save_file(tensors, path, {"hairify": json.dumps(about)})


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safetensors.safe_open(path, "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["hairify"])  # noqa: SIM118


@pytest.mark.parametrize(
    "damage", ["absent", "noise", "cut", "foreign", "newer", "newer plan", "plan", "missing", "surplus", "shape"]
)
def test_a_damaged_or_foreign_file_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "hair.safetensors"
    save(hairify(UNet(), preset="published"), path)
    tensors, about = read(path)
    plan = json.loads(about["plan"])
    text: str
    match damage:
        case "absent":
            path.unlink()
            text = "no file"
        case "noise":
            path.write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
            text = "damaged or of another kind"
        case "cut":
            path.write_bytes(path.read_bytes()[:-100])
            text = "damaged or of another kind"
        case "foreign":
            safetensors.torch.save_file(tensors, path)
            text = "no hairify checkpoint"
        case "newer":
            write(path, tensors, about | {"version": 99})
            text = "version 99.*newer hairify"
        case "newer plan":
            write(path, tensors, about | {"plan": json.dumps(plan | {"version": 99})})
            text = "version 99.*newer hairify"
        case "plan":
            write(path, tensors, about | {"plan": about["plan"][:-9]})
            text = "plan cannot be read"
        case "missing":
            write(path, {k: v for k, v in tensors.items() if not k.startswith("hsn.3.")}, about)
            text = r"missing 8 \(hsn\.3\.layers\.0\.bias"
        case "surplus":
            write(path, tensors | {"base.extra": torch.zeros(1)}, about)
            text = r"not expected 1 \(base\.extra\)"
        case _:
            write(path, tensors | {"dac.conv_in.bias": torch.zeros(3)}, about)
            text = "size mismatch"
    with pytest.raises(CheckpointError, match=text):
        load(path, UNet())


def test_a_checkpoint_for_another_network_is_refused(tmp_path: Path) -> None:
    save(hairify(UNet()), tmp_path / "hair")
    for base in (small_restormer(), UNet(12)):
        before = snapshot(base)
        with pytest.raises(PlanMismatchError):
            load(tmp_path / "hair", base)
        assert_unchanged(base, before)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hair"
    hair = hairify(UNet())
    save(hair, path)
    before = path.read_bytes()

    def fail(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save(hair, path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_no_hair_model_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="takes a HairModel; got a UNet"):
        save(UNet(), tmp_path / "x")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"no folder .*absent; `path` is the file to write"):
        save(hairify(UNet()), tmp_path / "absent" / "x")
    with pytest.raises(CheckpointError, match="is a folder; `path` is the file to write"):
        save(hairify(UNet()), tmp_path)


def test_added_only_keeps_the_statistics_that_training_moves(tmp_path: Path) -> None:
    original = UNet()
    hair = hairify(original)
    hair.base.requires_grad_(False)
    hair.train()
    for _ in range(3):
        hair(torch.rand(2, 3, 32, 48) * 3)
    save(hair.eval(), tmp_path / "added", added_only=True)
    assert_differs(hairify(original).eval()(X), hair(X))
    assert torch.equal(load(tmp_path / "added", original).eval()(X), hair(X))


@pytest.mark.parametrize(
    "change",
    [
        {"version": None},
        {"version": "1"},
        {"plan": None},
        {"aliases": ["x"]},
        {"aliases": {"base.x": "absent"}},
        {"plan": {"giv_dim": -3}},
        {"plan": {"levels": []}},
        {"plan": {"hsn_limit": 0}},
        {"plan": {"hsn_limit": -1.0}},
        {"plan": {"hsn_limit": "2"}},
        {"plan": {"feature": {"index": 0, "layout": "spiral", "shape": [32, 8, 12]}}},
    ],
)
def test_metadata_that_makes_no_sense_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "hair"
    save(hairify(UNet()), path)
    tensors, about = read(path)
    if isinstance(change.get("plan"), dict):
        change = {"plan": json.dumps(json.loads(about["plan"]) | change["plan"])}
    write(path, tensors, {k: v for k, v in (about | change).items() if v is not None})
    with pytest.raises(CheckpointError, match="damaged"):
        load(path, UNet())


@pytest.mark.parametrize("box", ["full", "low_rank"])
def test_files_of_version_1_compute_what_they_computed(box: str, tmp_path: Path) -> None:
    """Written by hairify as of abec7f7, before GIVs were standardised; its outputs lie beside them."""
    data = Path(__file__).parent / "stored"
    expected = safetensors.torch.load_file(data / "version_1_expected.safetensors")
    x, y, giv = (expected[f"{box}.{part}"] for part in ("input", "output", "giv"))
    hair = load(data / f"version_1_{box}.safetensors", DnCNN(8, 4).double().eval())
    assert (hair.plan.dac_name, hair.plan.hsn_widths) == ("published", (4, 4, 4))
    assert not hair.is_calibrated
    level = hair.plan.levels[0]
    assert len(level.blocks) == 3
    assert level.shared == (box == "low_rank")
    assert level.rank == (None if box == "full" else 2)
    with torch.no_grad():
        assert_close(hair.giv(x), giv, 1e-12)
        assert_close(hair(x), y, 1e-12)
        with hair.conditioned_on(giv[[1, 0]]):
            assert_differs(hair(x), y, 1e-5)  # the GIV matters, or half of the model would be untested
        save(hair, tmp_path / "hair.safetensors")
        again = load(tmp_path / "hair.safetensors", DnCNN(8, 4).double().eval())
        assert again.plan == hair.plan
        assert torch.equal(again(x), hair(x))


@pytest.mark.parametrize("how", ["a module", "over a plan", "a name over a plan"])
def test_a_dac_given_otherwise_than_the_plan_has_it_is_recorded(how: str, tmp_path: Path) -> None:
    """Of hairify's own classes too, where they read another thing than the plan would have them read."""
    network, x = UNet().double().eval(), torch.rand(2, 3, 32, 48, dtype=torch.float64)
    made = plan(network)
    own = MomentsDAC(made.feature.channels, made.giv_dim, single=True)
    hair = {
        "a module": lambda: hairify(network, dac=own),
        "over a plan": lambda: hairify(network, plan=made, dac=own),
        "a name over a plan": lambda: hairify(network, plan=made, dac="published"),
    }[how]()
    perturb(hair)
    assert hair.plan.parameters[1] == sum(p.numel() for p in hair.parameters())
    save(hair, tmp_path / "hair.safetensors")
    given = {} if how == "a name over a plan" else {"dac": own}
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "hair.safetensors", UNet().double().eval(), **given)(x), hair(x))
    if given:
        with pytest.raises(HairError, match="give it again"):
            load(tmp_path / "hair.safetensors", UNet().double().eval())


def test_files_with_plans_of_version_3_compute_what_they_computed() -> None:
    """Written by hairify as of 4186647, before logits of HSNs had a limit, which would change these vectors."""
    data = Path(__file__).parent / "stored"
    expected = safetensors.torch.load_file(data / "plan_3_expected.safetensors")
    hair = load(data / "plan_3.safetensors", DnCNN(8, 4).double().eval())
    assert hair.plan.hsn_limit is None
    assert hair.is_calibrated
    with torch.no_grad():
        assert_close(hair.giv(expected["input"]), expected["giv"], 1e-12)
        assert_close(hair(expected["input"]), expected["output"], 1e-12)
        for hsn in hair.hsn:
            hsn.limit = 2.0
        assert_differs(hair(expected["input"]), expected["output"], 1e-5)


@pytest.mark.parametrize(("preset", "limit"), [("default", 2.0), ("published", None)])
def test_the_limit_of_logits_reaches_the_nets_and_comes_back(preset: Any, limit: float | None, tmp_path: Path) -> None:
    hair = perturb(hairify(UNet().eval(), preset=preset))
    save(hair, tmp_path / "hair.safetensors")
    again = load(tmp_path / "hair.safetensors", UNet().eval())
    for one in (hair, again):
        assert one.plan.hsn_limit == limit
        assert [hsn.limit for hsn in one.hsn] == [limit] * len(one.plan.levels)
    with torch.no_grad():
        assert torch.equal(again(X), hair(X))


@pytest.mark.parametrize("preset", ["default", "published"])
def test_a_network_on_the_meta_device_gets_the_files_values(tmp_path: Path, preset: Any) -> None:
    hair = perturb(hairify(UNet(), preset=preset))
    save(hair, tmp_path / "hair.safetensors")
    with torch.device("meta"):
        empty = UNet()
    assert all(p.is_meta for p in empty.parameters())
    got = load(tmp_path / "hair.safetensors", empty)
    x = torch.rand(2, 3, 32, 48)
    assert torch.equal(got.eval()(x), hair.eval()(x))
    assert [p.requires_grad for p in got.parameters()] == [p.requires_grad for p in hair.parameters()]
    assert all(p.is_meta for p in empty.parameters())  # left as it was
    got.train()(x).mean().backward()


def test_what_has_no_values_is_refused_by_name(tmp_path: Path) -> None:
    hair = hairify(UNet())
    save(hair, tmp_path / "added.safetensors", added_only=True)
    with torch.device("meta"):
        empty = UNet()
    with pytest.raises(CheckpointError, match=r"meta device, and .*added.safetensors has no values for \d+ \(base\."):
        load(tmp_path / "added.safetensors", empty)
    for convert in (plan, hairify):
        with pytest.raises(ExampleInputError, match=r"parameter '[\w.]+' is on the meta device and has no values"):
            convert(empty)
    carried_out = hairify(empty, plan=hair.plan)  # as for weights that are made later, where there is room for them
    assert all(p.is_meta for p in (*carried_out.base.parameters(), *carried_out.boxes.parameters()))
    assert not any(p.is_meta for p in carried_out.hsn.parameters())
