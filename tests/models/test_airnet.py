"""AirNet against the published one, its contrastive encoder against its definition, and AirNet converted."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from laws import Specimen, examine
from reference import largest_error, published_state, record
from torch import Tensor, nn
from util import assert_close, assert_unchanged, snapshot

from hairify import HairModel, hairify, load, plan, save
from hairify.errors import OptionError
from hairify.models import AirNet, airnet
from hairify.models.airnet import MoCo

SMALL = {"dim": 8, "blocks": 3, "batch_size": 1}
OPTIONS = {"preset": "published", "split_at": "R.body.2", "include": ("R.body.3", "R.body.4")}


def pairs(batch: int, size: tuple[int, int] = (16, 24)) -> tuple[Tensor, Tensor]:
    """Queries and keys."""
    return torch.rand(batch, 3, *size), torch.rand(batch, 3, *size)


def test_it_computes_what_the_published_network_computes() -> None:
    model = airnet(**record("airnet")["config"]).double()
    model.load_state_dict(published_state("airnet"), strict=True)
    assert largest_error(model, "airnet") < 1e-9


def test_names_shapes_and_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = airnet()
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == dict(record("airnet")["state"])
    assert sum(p.numel() for p in model.parameters()) == 8_930_313
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 7_610_377


@pytest.mark.parametrize("batch_size", [1, 4])
def test_batch_size_sizes_the_queue(batch_size: int) -> None:
    assert airnet(**SMALL | {"batch_size": batch_size}).E.E.queue.shape == (256, 256 * batch_size)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1.5}, "`batch_size` is 1.5; accepted are integers from 1 up"),
        ({"dim": 0}, "dim"),
        ({"groups": -1}, "groups"),
        ({"blocks": 0}, "blocks"),
        ({"momentum": 1.1}, "momentum"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_impossible_options_are_named(options: dict[str, float], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        airnet(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(13, 22), (1, 5), (3, 3)])
def test_images_of_any_size_and_an_unread_key_in_evaluation(size: tuple[int, int]) -> None:
    model = airnet(**SMALL).eval()
    query, key = pairs(2, size)
    before = snapshot(model)
    restored = model(query, key)
    assert restored.shape == query.shape
    assert torch.equal(restored, model(query, query))
    assert_unchanged(model, before)


def test_the_meta_device_needs_no_numbers() -> None:
    with torch.device("meta"):
        model, (query, key) = airnet(**SMALL).eval(), pairs(2)
        assert model(query, key).shape == query.shape


def test_training_returns_the_image_logits_and_labels() -> None:
    restored, logits, labels = airnet(**SMALL).train()(*pairs(3))
    assert restored.shape == (3, 3, 16, 24)
    assert logits.shape == (3, 1 + 256)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 0, 0]


def test_the_key_encoder_follows_and_gets_no_gradient() -> None:
    model = airnet(**SMALL, momentum=0.9).train()
    moco = model.E.E
    with torch.no_grad():
        for parameter in moco.encoder_q.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = copy.deepcopy(moco.encoder_k)
    restored, logits, labels = model(*pairs(2))
    (restored.mean() + F.cross_entropy(logits, labels)).backward()
    states = (encoder.named_parameters() for encoder in (moco.encoder_q, moco.encoder_k, before))
    for (name, query), (_, key), (_, old) in zip(*states, strict=True):
        assert torch.allclose(key, 0.9 * old + 0.1 * query, atol=1e-6), name
        assert not key.requires_grad
        assert key.grad is None
        assert query.grad is not None, name
    assert moco.encoder_k.E_pre.backbone[1].num_batches_tracked == 1


def test_the_encoders_start_alike() -> None:
    moco = airnet(**SMALL).E.E
    for name, value in moco.encoder_q.state_dict().items():
        assert torch.equal(moco.encoder_k.state_dict()[name], value)


@pytest.mark.parametrize("batch", [1, 4, 5, 10, 23])  # dividing the queue of 10 or not, filling it, larger than it
def test_the_queue_is_a_ring(batch: int) -> None:
    moco = MoCo(4, 10, 0.999, 0.07)
    expected, place = [column.clone() for column in moco.queue.T], 0
    for _ in range(5):
        keys = torch.randn(batch, 256)
        moco._enqueue(keys)
        for key in keys[-10:]:  # of more keys than there are places the last ones stay
            expected[place], place = key, (place + 1) % 10
        assert torch.equal(moco.queue, torch.stack(expected, 1))
        assert moco.queue_ptr.tolist() == [place]


def test_logits_are_similarities_with_the_queue_as_it_was() -> None:
    moco = MoCo(4, 10, 0.5, 0.2).double().train()
    queue, (query, key) = moco.queue.clone(), (image.double() for image in pairs(3))
    logits, _, _ = moco(query, key)
    follower = copy.deepcopy(moco).train()  # which has followed already; batch statistics do not depend on history
    queries, keys = follower.encoder_q(query)[0], follower.encoder_k(key)[0]
    for i in range(3):
        q, k = queries[i] / queries[i].norm(), keys[i] / keys[i].norm()
        expected = [q @ k, *(q @ queue[:, j] for j in range(10))]
        assert_close(logits[i], torch.stack(expected) / 0.2, 1e-10)
        assert torch.allclose(moco.queue[:, i], k)


def train(model: nn.Module, steps: int) -> list[float]:
    """The restoration's losses in some steps on one batch. (Contrast rises while real keys fill the random queue.)"""
    (clean, _), (query, key) = pairs(2), pairs(2)
    optimizer, losses = torch.optim.Adam(model.parameters(), 2e-3), []
    for _ in range(steps):
        restored, logits, labels = model(query, key)
        losses.append(F.l1_loss(restored, clean))
        optimizer.zero_grad()
        (losses[-1] + 0.1 * F.cross_entropy(logits, labels)).backward()
        optimizer.step()
    return [loss.item() for loss in losses]


def test_it_trains() -> None:
    losses = train(airnet(**SMALL).train(), 6)
    assert losses[-1] < losses[0]


@pytest.fixture(scope="module")
def converted() -> tuple[AirNet, HairModel]:
    torch.manual_seed(0)
    model = airnet(**SMALL)
    return model, hairify(model, **OPTIONS, example_inputs=pairs(1))


def test_converted_levels_are_those_of_the_published_size(converted: tuple[AirNet, HairModel]) -> None:
    _, hair = converted
    assert hair.plan.tracer == "fx"
    assert [(v.name, len(v.blocks), v.box_size) for v in hair.plan.levels] == [
        ("R.body.3.body", 3, 4),
        ("R.body", 2, 3),
        ("R.body.4.body", 3, 4),
    ]
    assert hair.plan.levels[0].layers == (
        "dgm1.dcn.conv_offset_mask",
        "conv1",
        "dgm2.dcn.conv_offset_mask",
        "conv2",
    )
    skipped = {name: reason for name, reason in hair.plan.skipped.items() if name.startswith(("R.body.3", "R.body.4"))}
    assert set(skipped.values()) == {"does not depend on the split's output"}
    assert all(".sft." in name for name in skipped)


@pytest.mark.slow
def test_converted_size_is_the_papers() -> None:
    p = plan(airnet(), **OPTIONS, example_inputs=pairs(1))
    assert p.parameters == (8_930_313, 9_674_223)


@pytest.mark.slow
def test_converted_it_obeys_the_laws() -> None:
    examine(
        Specimen(
            lambda: airnet(**SMALL),
            inputs=lambda batch, size: tuple(image.double() for image in pairs(batch, size)),
            sizes=((16, 24), (21, 13)),
            options=OPTIONS | {"example_inputs": tuple(image.double() for image in pairs(1))},
        )
    )


def test_converted_it_starts_where_it_was_in_training_too(converted: tuple[AirNet, HairModel]) -> None:
    model, hair = (copy.deepcopy(each).train() for each in converted)
    for _ in range(2):  # the second time with moved queues and key encoders
        inputs = pairs(3)
        (*got, labels), (*expected, wanted) = hair(*inputs), model(*inputs)
        for each, other in zip(got, expected, strict=True):
            assert_close(each, other, 1e-5)
        assert torch.equal(labels, wanted)
    for name, value in model.E.state_dict().items():
        assert torch.equal(hair.base.E.state_dict()[name], value), name


def test_converted_it_trains(converted: tuple[AirNet, HairModel]) -> None:
    hair = copy.deepcopy(converted[1]).train()
    before = copy.deepcopy(hair)
    losses = train(hair, 6)
    assert losses[-1] < losses[0]
    for part in ("dac", "hsn", "boxes"):
        was = dict(getattr(before, part).named_parameters())
        still = [name for name, value in getattr(hair, part).named_parameters() if torch.equal(value, was[name])]
        # The softmax of an attention is blind to the bias of its keys: it moves by rounding, or not at all.
        assert not [name for name in still if name != "mid.attn_1.k.bias"], f"in {part}"
    assert hair.base.E.E.queue_ptr.item() == 12
    assert not torch.equal(hair.base.E.E.encoder_k.mlp[0].weight, before.base.E.E.encoder_k.mlp[0].weight)


def test_converted_it_has_a_graph(converted: tuple[AirNet, HairModel]) -> None:
    hair = copy.deepcopy(converted[1]).eval()
    inputs = pairs(2)
    assert_close(hair.graph()(*inputs), hair(*inputs), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_planning_and_converting_leave_queue_and_key_encoder_alone(training: bool) -> None:
    model = airnet(**SMALL, momentum=0.5).train(training)
    with torch.no_grad():
        for parameter in model.E.E.encoder_q.parameters():
            parameter.add_(1)  # far from the key encoder: following it would show
    before = snapshot(model)
    first = plan(model, **OPTIONS, example_inputs=pairs(1))
    hair = hairify(model, **OPTIONS, example_inputs=pairs(1))
    assert_unchanged(model, before, random=False)
    assert hair.plan == first
    for name, value in model.E.state_dict().items():
        assert torch.equal(hair.base.E.state_dict()[name], value), name
    hair.train()(*pairs(2))
    assert_unchanged(model, before, random=False)


def test_copies_and_files_carry_queue_and_key_encoder(converted: tuple[AirNet, HairModel], tmp_path: Path) -> None:
    model, hair = converted
    hair = copy.deepcopy(hair).train()
    hair(*pairs(3))
    copies = {"deepcopy": copy.deepcopy(hair), "pickle": pickle.loads(pickle.dumps(hair))}
    for added_only in (False, True):
        save(hair, tmp_path / "hair.safetensors", added_only=added_only)
        base = model
        if added_only:  # such a file goes with the network that was trained: its parameters, but not its buffers
            base = copy.deepcopy(model)
            base.E.E.encoder_k.load_state_dict(hair.base.E.E.encoder_k.state_dict())
        copies[f"save, added_only={added_only}"] = load(tmp_path / "hair.safetensors", base)
    inputs = pairs(2)
    expected = copy.deepcopy(hair)(*inputs)
    for kind, again in copies.items():
        assert again.base.E.E.queue_ptr.item() == 3, kind
        got = again.train()(*inputs)
        assert all(map(torch.equal, got, expected)), kind
    assert hair.base.E.E.queue_ptr.item() == 3, "a copy filled the original's queue"


def test_baked_it_trains_on(converted: tuple[AirNet, HairModel]) -> None:
    _, hair = converted
    query, _ = pairs(1)
    hair.eval()
    static = hair.bake(query, query)
    assert type(static) is AirNet
    assert_close(static(query, query), hair(query, query), 1e-5)
    assert len(static.train()(*pairs(2))) == 3
