"""The zoo: whatever restoration architecture spandrel ships converts without an argument and obeys every law."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo_table
from laws import apply, call, examine, images, spread
from spandrel_networks import EXCLUDED, INSTALLED, ZOO
from torch import nn
from traps import TRAPS
from util import assert_close, assert_unchanged, perturb, snapshot

from hairify import Plan, hairify, plan
from hairify.errors import GraphError, HairError
from hairify.plan import full_name

pytestmark = [
    pytest.mark.zoo,
    pytest.mark.skipif(not INSTALLED, reason="spandrel is not installed"),
    pytest.mark.filterwarnings("ignore::hairify.errors.HairWarning"),
]

PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"
RESULTS = os.environ.get("HAIRIFY_ZOO_RESULTS")
CONVERTED = [name for name, network in ZOO.items() if not network.refused]


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return ZOO[name].specimen.build().eval()


@functools.cache
def planned(name: str) -> Plan:
    """As users do it: in float32, without an argument, and with nothing held still."""
    return plan(build(name))


def keep(name: str, made: Plan | None, errors: dict[str, float], **more: Any) -> None:
    """Write down what was measured, and compare it with the page where that is not about to be written."""
    measured = zoo_table.result(name, made, errors, **more)
    if RESULTS:
        Path(RESULTS).mkdir(parents=True, exist_ok=True)
        path = Path(RESULTS) / f"{measured['kind']}-{re.sub(r'[^A-Za-z0-9]+', '-', name)}.json"
        path.write_text(json.dumps(measured, indent=1), encoding="utf-8")
    elif PAGE.exists() and made is not None:
        assert zoo_table.structure(measured) in PAGE.read_text(encoding="utf-8"), "docs/zoo.md is behind: make zoo-page"


@pytest.mark.parametrize("name", ZOO)
def test_a_network_obeys_every_law(name: str) -> None:
    network = ZOO[name]
    told = {"architecture": network.architecture, "expert": network.expert_split, "why": network.why}
    if network.refused:
        model = build(name)
        before = snapshot(model)
        with pytest.raises(HairError, match=re.escape(network.refused)) as refused:
            hairify(model)
        assert_unchanged(model, before)
        keep(name, None, {}, refused=str(refused.value).partition("\n")[0], **told)
        return
    with network.held():
        findings = examine(network.specimen)
    assert findings.plan == planned(name), "float64 gives another plan than float32"
    keep(name, findings.plan, findings.errors, **told)


@pytest.mark.skipif(not RESULTS, reason="the traps have tests of their own; here they are measured for the page")
@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_is_measured(name: str) -> None:
    trap = TRAPS[name]
    if trap.refused is None:
        findings = examine(trap.specimen)
        keep(name, findings.plan, findings.errors, kind="trap")
    else:
        keep(name, None, {}, kind="trap", refused=trap.refused)


@pytest.mark.parametrize("name", CONVERTED)
def test_the_split_is_an_experts_or_it_is_said_why(name: str) -> None:
    network = ZOO[name]
    agreed = planned(name).split in network.expert_split
    assert agreed != bool(network.why), f"{planned(name).split}, the expert's are {network.expert_split}"


@pytest.mark.parametrize("name", CONVERTED)
def test_the_split_may_be_given(name: str) -> None:
    model, expert = build(name), ZOO[name].expert_split[0]
    assert plan(model, split_at=expert).split == expert
    assert plan(model, split_at=0.5).levels


@pytest.mark.parametrize("name", CONVERTED)
def test_the_graph_of_what_fx_can_follow(name: str) -> None:
    network, made = ZOO[name], planned(name)
    with network.held(), torch.no_grad():
        model = build(name).double()
        spread(model)
        hair = perturb(hairify(model, plan=made))
        inputs = network.specimen.inputs(2, network.specimen.sizes[0])
        try:
            graph = hair.graph()
        except GraphError:
            assert made.tracer != "fx"
            assert not fx_follows(model, inputs)
            return
        for got, expected in zip(outputs(graph, inputs), outputs(hair, inputs), strict=True):
            assert_close(got, expected, 1e-10)
    names = [node.name for node in graph.graph.nodes]
    hyper = [full_name(block, layer) for level in made.levels for block in level.blocks for layer in level.layers]
    layers = [name.replace(".", "_") for name in hyper]
    assert [name for name in layers if not any(name in node for node in names)] == []
    assert [name for name in ("dac", "hsn", "boxes", *layers) if name not in graph.code] == []


def fx_follows(model: nn.Module, inputs: Any) -> bool:
    """Whether torch.fx does so by itself, arguments with a default being constants, and its graph is right."""
    parameters = inspect.signature(model.forward).parameters.values()
    constants = {p.name: p.default for p in parameters if p.default is not p.empty}
    expected = outputs(model, inputs)
    try:  # on a copy: proxies may stay behind in the attributes that a forward assigns
        graph = torch.fx.symbolic_trace(copy.deepcopy(model), concrete_args=constants)
        got = outputs(graph, inputs)
    except Exception:  # whatever proxies meet in a foreign forward
        return False
    return len(got) == len(expected) and all(map(torch.allclose, got, expected))


def outputs(model: Any, inputs: Any) -> list[torch.Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(call(model, inputs)) if isinstance(t, torch.Tensor)]


@pytest.mark.parametrize("name", ["DRUNet", "SwinIR"])
def test_a_descriptor_stands_for_its_model(name: str) -> None:
    import spandrel

    descriptor = spandrel.ModelLoader().load_from_state_dict(build(name).state_dict()).eval()
    assert plan(descriptor) == plan(descriptor.model)
    hair = hairify(descriptor)
    assert type(hair.base) is type(descriptor.model)
    x = images(3)(2, (64, 96)).float()
    with torch.no_grad():
        assert_close(apply(hair, x), apply(descriptor.model, x), 1e-5)


def test_the_zoo_is_complete() -> None:
    import spandrel

    shipped = {support.architecture.id for support in spandrel.MAIN_REGISTRY}
    assert shipped == {network.architecture for network in ZOO.values()} | set(EXCLUDED)
    built = {type(build(name)) for name in ZOO}
    for architecture in shipped - set(EXCLUDED):
        module = importlib.import_module(f"spandrel.architectures.{architecture}")
        classes = {c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, nn.Module)}
        assert classes <= built, architecture


def test_the_page_has_every_network() -> None:
    if not PAGE.exists():
        pytest.skip("`make zoo` has not been run")
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in CONVERTED if f"\n| {name} | " not in text] == []
    assert [name for name in ZOO if name not in CONVERTED and f"\n- {name}: " not in text] == []
