"""Whether a network uses its GIV: the measurement against a plain one, and what it says of networks that do not.

And the law of proportion: what reads and uses the GIV is no larger than the network allows.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import NETWORKS, DnCNN
from torch import Tensor
from util import perturb

from hairify import HairError, HairModel, hairify, plan
from hairify.errors import ConditioningError
from hairify.evaluation import Conditioning, Fidelity, measure_conditioning
from hairify.models import restormer
from hairify.planning._presets import hsn_widths

NAMES = ["noise", "blur", "noise", "dark", "blur", "noise", "noise", "dark"]
STRENGTH = {"noise": 0.05, "blur": 0.15, "dark": 0.3}


def photographs(names: list[str] = NAMES) -> tuple[Tensor, Tensor]:
    clean = torch.rand(len(names), 3, 16, 24, dtype=torch.float64)
    degraded = torch.stack(
        [image + STRENGTH[name] * torch.randn_like(image) for image, name in zip(clean, names, strict=True)]
    )
    return degraded.clamp(0, 1), clean


@pytest.fixture
def hair() -> HairModel:
    torch.manual_seed(0)
    model = hairify(DnCNN(5, 6).double().eval())
    model.calibrate(photographs()[0])
    return perturb(model, 1.0)


def fidelity(restored: Tensor, clean: Tensor) -> tuple[float, float]:
    difference = restored.clamp(0, 1) - clean
    return float(difference.abs().mean()), -10 * math.log10(float(difference.pow(2).mean()))


def average(numbers: list[tuple[float, float]]) -> tuple[float, ...]:
    return tuple(sum(column) / len(numbers) for column in zip(*numbers, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_against_one_image_after_another(hair: HairModel, batch_size: int) -> None:
    degraded, clean = photographs()
    found = measure_conditioning(hair, degraded, clean, NAMES, batch_size=batch_size)
    names = ["noise", "blur", "dark"]
    givs = [hair.giv(x[None]) for x in degraded]
    means = {k: sum(g for g, name in zip(givs, NAMES, strict=True) if name == k) / NAMES.count(k) for k in names}
    of_all = sum(givs) / len(givs)
    expected: dict[str, dict[str, list[tuple[float, float]]]] = {
        kind: {k: [] for k in names} for kind in ("own", "mean", "wrong")
    }
    seen = dict.fromkeys(names, 0)
    for x, y, name, giv in zip(degraded, clean, NAMES, givs, strict=True):
        others = names[names.index(name) + 1 :] + names[: names.index(name)]
        wrong = means[others[seen[name] % 2]]  # images of one degradation take the others in turn
        seen[name] += 1
        for kind, used in (("own", giv), ("mean", of_all), ("wrong", wrong)):
            expected[kind][name].append(fidelity(hair.bake(giv=used)(x[None])[0], y))
    for kind, by_name in expected.items():
        assert [*getattr(found, kind)] == names
        for name, numbers in by_name.items():
            one = getattr(found, kind)[name]
            assert (one.l1, one.psnr) == pytest.approx(average(numbers), abs=1e-10)
    psnr = {kind: sum(average(numbers)[1] for numbers in by.values()) / 3 for kind, by in expected.items()}
    assert found.gain == pytest.approx(psnr["own"] - psnr["mean"], abs=1e-10)
    assert found.cost_of_wrong == pytest.approx(psnr["own"] - psnr["wrong"], abs=1e-10)
    assert min(abs(found.gain), abs(found.cost_of_wrong)) > 1e-3, "the network ignores its GIV: nothing is tested"
    assert found.images == len(NAMES)

    selecting = {
        level.name: [hsn(giv)[0] for giv in givs] for level, hsn in zip(hair.plan.levels, hair.hsn, strict=True)
    }
    for level, vectors in selecting.items():
        by_name = [sum(v for v, name in zip(vectors, NAMES, strict=True) if name == k) / NAMES.count(k) for k in names]
        widest = max(float((a - b).abs().max()) for a, b in itertools.combinations(by_name, 2))
        assert found.spread[level] == pytest.approx(widest, abs=1e-12)
        assert 0.01 < widest <= 1
    assert found.spread.keys() == selecting.keys()

    right = 0
    for i, (giv, name) in enumerate(zip(givs, NAMES, strict=True)):
        distance = {}
        for k in names:
            rest = [g for j, g in enumerate(givs) if j != i and NAMES[j] == k]
            distance[k] = float((giv - sum(rest) / len(rest)).norm())
        right += min(distance, key=distance.__getitem__) == name
    assert found.recognised == pytest.approx(right / len(NAMES))


def test_degradations_are_recognised_where_givs_lie_apart(hair: HairModel) -> None:
    names = ["noise", "dark"] * 6
    degraded, clean = photographs(names)
    assert measure_conditioning(hair, degraded, clean, names).recognised >= 0.9
    shuffled = ["noise", "noise", "dark", "dark"] * 3  # names that say nothing of the images
    assert measure_conditioning(hair, degraded, clean, shuffled).recognised <= 0.75


def test_wrong_givs_are_never_the_images_own(hair: HairModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []
    original = HairModel.conditioned_on

    @contextmanager
    def recorded(self: HairModel, giv: Tensor) -> Iterator[HairModel]:
        asked.append(giv)
        with original(self, giv):
            yield self

    monkeypatch.setattr(HairModel, "conditioned_on", recorded)
    degraded, clean = photographs()
    measure_conditioning(hair, degraded, clean, NAMES, batch_size=len(NAMES))
    with torch.no_grad():
        givs = hair.giv(degraded)
    _, of_all, wrong = asked
    assert torch.allclose(of_all, givs.mean(0).expand_as(of_all))
    means = {k: givs[[name == k for name in NAMES]].mean(0) for k in STRENGTH}
    used: dict[str, set[str]] = {k: set() for k in STRENGTH}
    for name, one in zip(NAMES, wrong, strict=True):
        (taken,) = [k for k, mean in means.items() if torch.allclose(one, mean, rtol=1e-9)]
        assert taken != name
        used[name].add(taken)
    assert used == {k: {*STRENGTH} - {k} for k in STRENGTH}


def test_the_order_of_images_does_not_matter(hair: HairModel) -> None:
    names = ["noise", "dark", "noise", "noise", "dark", "noise", "dark"]
    degraded, clean = photographs(names)
    found = measure_conditioning(hair, degraded, clean, names)
    order = [4, 6, 0, 2, 1, 5, 3]
    other = measure_conditioning(hair, degraded[order], clean[order], [names[i] for i in order], batch_size=2)
    assert [*other.own] == ["dark", "noise"]
    for kind in ("own", "mean", "wrong"):
        for name in ("noise", "dark"):
            one, two = getattr(found, kind)[name], getattr(other, kind)[name]
            assert (one.l1, one.psnr) == pytest.approx((two.l1, two.psnr), abs=1e-10)
    assert other.spread == pytest.approx(found.spread)
    assert other.recognised == pytest.approx(found.recognised)
    assert other.gain == pytest.approx(found.gain, abs=1e-10)


def test_rows_that_are_equal_leave_the_giv_unused() -> None:
    degraded, clean = photographs()
    hair = hairify(DnCNN(5, 6).double()).calibrate(degraded)
    found = measure_conditioning(hair, degraded, clean, NAMES)
    assert abs(found.gain) < 1e-10
    assert abs(found.cost_of_wrong) < 1e-10
    assert not found.is_used
    assert max(found.spread.values()) > 0.1  # though the HSNs do tell images apart
    assert "GIV not used" in str(found)
    assert "calibrat" not in (found.advice(hair) or "calibrat")
    assert "more steps" in (found.advice(hair) or "")
    fresh = hairify(DnCNN(5, 6).double())
    assert "calibrating it before training" in (found.advice(fresh) or "")


def test_nets_that_select_alike_get_other_advice() -> None:
    degraded, clean = photographs()
    hair = hairify(DnCNN(5, 6).double())
    with torch.no_grad():
        for hsn in hair.hsn:
            hsn.layers[-1].weight.zero_()
    found = measure_conditioning(hair, degraded, clean, NAMES)
    assert max(found.spread.values()) < 1e-12
    assert "`split_at`" in (found.advice(hair) or "")


@pytest.mark.parametrize("training", [False, True])
def test_modes_and_state_are_put_back(hair: HairModel, training: bool) -> None:
    hair.train(training)
    hair.base.body[3].train(not training)
    modes, state = [m.training for m in hair.modules()], {k: v.clone() for k, v in hair.state_dict().items()}
    random = torch.get_rng_state()
    degraded, clean = photographs()
    random = torch.get_rng_state()
    first = measure_conditioning(hair, degraded, clean, NAMES)
    assert [m.training for m in hair.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in hair.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert first == measure_conditioning(hair.eval(), degraded, clean, NAMES)


def wrong_arguments() -> dict[str, tuple[dict[str, Any], str]]:
    degraded, clean = photographs()
    return {
        "no HairModel": ({"hair": DnCNN()}, "`hair` is a DnCNN"),
        "one degradation": ({"degradations": ["noise"] * 8}, r"All images show \['noise'\]"),
        "fewer names": ({"degradations": NAMES[:7]}, "7 degradations are named"),
        "more names": ({"degradations": [*NAMES, "dark"]}, "9 degradations are named"),
        "fewer clean ones": ({"clean": clean[:7]}, r"`clean` \(7, 3, 16, 24\)"),
        "another size": ({"clean": clean[:, :, 1:]}, r"`clean` \(8, 3, 15, 24\)"),
        "one image": ({"degraded": degraded[0], "clean": clean[0]}, r"`degraded` has shape \(3, 16, 24\)"),
        "an array": ({"degraded": degraded.numpy()}, "`degraded` is a ndarray"),
        "no batches": ({"batch_size": 0}, "`batch_size` is 0; accepted"),
        "nothing": ({"degraded": degraded[:0], "clean": clean[:0], "degradations": []}, r"All images show \[\]"),
    }


@pytest.mark.parametrize(("arguments", "message"), wrong_arguments().values(), ids=wrong_arguments())
def test_wrong_arguments_are_named(hair: HairModel, arguments: dict[str, Any], message: str) -> None:
    degraded, clean = photographs()
    given = {"hair": hair, "degraded": degraded, "clean": clean, "degradations": NAMES} | arguments
    with pytest.raises(ConditioningError, match=message) as error:
        measure_conditioning(**given)
    assert isinstance(error.value, HairError)


def test_of_single_images_nothing_can_be_recognised(hair: HairModel) -> None:
    names = ["noise", "dark", "noise"]
    degraded, clean = photographs(names)
    found = measure_conditioning(hair, degraded, clean, names)
    assert math.isnan(found.recognised)
    plain = json.loads(json.dumps(found.plain(), allow_nan=False))
    assert plain["recognised"] is None
    assert plain["gain"] == found.gain
    assert "told apart" not in str(found)


def test_a_perfect_network_is_measured_in_finite_numbers() -> None:
    degraded, _ = photographs()
    hair = hairify(DnCNN(5, 6).double().eval())
    with torch.no_grad():
        target = hair(degraded).clamp(0, 1)
    found = measure_conditioning(hair, degraded, target, NAMES)
    assert found.own["noise"].psnr == found.wrong["noise"].psnr == pytest.approx(100)
    assert found.gain == found.cost_of_wrong == 0


def test_a_network_that_returns_no_numbers_gets_no_verdict(hair: HairModel) -> None:
    one = Fidelity(math.nan, math.nan)
    found = Conditioning({"a": one}, {"a": one}, {"a": one}, {"level": 0.5}, 1.0, 2)
    plain = json.loads(json.dumps(found.plain(), allow_nan=False))
    assert plain["own"] == {"a": {"l1": None, "psnr": None}}
    assert plain["gain"] is None
    assert "not all finite" in (found.advice(hair) or "")


def test_a_giv_given_outside_does_not_count(hair: HairModel) -> None:
    degraded, clean = photographs()
    expected = measure_conditioning(hair, degraded, clean, NAMES)
    with hair.conditioned_on(hair.giv(degraded[:1])):
        assert measure_conditioning(hair, degraded, clean, NAMES) == expected


@pytest.mark.parametrize("preset", ["default", "published"])
def test_what_is_advised_can_be_done(preset: Any) -> None:
    own, other = {"a": Fidelity(0.1, 25.0)}, {"a": Fidelity(0.1, 24.95)}
    hair = hairify(DnCNN(5, 6).double(), preset=preset)
    advice = Conditioning(own, other, other, {"level": 0.5}, 1.0, 2).advice(hair) or ""
    assert ("`rank`" in advice) == (preset == "default")
    assert ("`box='low_rank'`" in advice) == ("`dac='moments'`" in advice) == (preset == "published")


@pytest.mark.parametrize(("wrong", "used"), [(29.89, True), (29.95, False), (31.0, False)])
def test_a_network_uses_its_giv_where_a_wrong_one_costs(hair: HairModel, wrong: float, used: bool) -> None:
    own, other = {"a": Fidelity(0.1, 28.0), "b": Fidelity(0.1, 32.0)}, Fidelity(0.1, wrong)
    found = Conditioning(own, own, {"a": other, "b": other}, {"level": 0.5}, 1.0, 2)
    assert found.cost_of_wrong == pytest.approx(30 - wrong)
    assert found.gain == 0
    assert found.is_used == used
    assert (found.advice(hair) is None) == used
    assert found.plain()["used"] == used


def reads(hair: HairModel) -> int:
    return sum(p.numel() for part in (hair.dac, hair.standardization, hair.hsn) for p in part.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks_get_no_more_than_they_have(name: str) -> None:
    hair = hairify(NETWORKS[name]())
    own = sum(p.numel() for p in NETWORKS[name]().parameters())
    assert 0 < reads(hair) <= own


def test_large_networks_get_5_percent() -> None:
    model = restormer(dim=16)
    made = plan(model, example_inputs=torch.rand(1, 3, 16, 24))
    own = sum(p.numel() for p in model.parameters())
    assert own > 1_000_000
    added = made.parameters[1] - made.parameters[0]
    kept_and_boxes = sum(level.box_parameters - level.row_parameters * len(level.blocks) for level in made.levels)
    assert 0 < added - kept_and_boxes <= 0.05 * own


@given(
    channels=st.none() | st.integers(1, 800),
    levels=st.lists(st.tuples(st.integers(1, 20), st.integers(2, 8)), min_size=1, max_size=80),
    parameters=st.integers(100, 10**9),
    giv_dim=st.none() | st.integers(1, 200),
)
def test_widths_are_the_largest_that_fit(
    channels: int | None, levels: list[tuple[int, int]], parameters: int, giv_dim: int | None
) -> None:
    """In more of the widths' own order, those before them are too large, and they fit unless they are the smallest."""
    blocks, sizes = (list(column) for column in zip(*levels, strict=True))
    dim, hidden = hsn_widths("default", giv_dim, channels, blocks, sizes, parameters)
    assert len(hidden) == 1
    steps = [(64, 32), (48, 24), (32, 16), (16, 8), (8, 8), (8, 4)]
    assert giv_dim is None or dim == giv_dim
    assert channels is None or giv_dim is not None or dim <= channels
    most = parameters * (0.05 if parameters >= 1_000_000 else 1)

    def size(width: int, hidden: int) -> int:
        taken = giv_dim or (64 if channels is None else min(width, channels))
        return sum(m * (taken * hidden + hidden + hidden * n + n) for m, n in levels)

    fitting = [i for i, step in enumerate(steps) if size(*step) <= most]
    chosen = steps[fitting[0] if fitting else -1]
    assert hidden == (chosen[1],)
    assert dim == giv_dim or dim == (64 if channels is None else min(chosen[0], channels))
    larger = hsn_widths("default", giv_dim, channels, blocks, sizes, 20 * parameters + 20_000_000)
    assert larger >= (dim, hidden)
    assert hsn_widths("published", giv_dim, channels, blocks, sizes, parameters)[0] == (giv_dim or 64)
