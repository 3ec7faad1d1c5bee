"""The zoo: whatever restoration architecture spandrel ships converts without an argument and obeys every law."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import inspect
import json
import operator
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo_table
from laws import apply, call, examine, images, spread
from spandrel_networks import EXCLUDED, INSTALLED, ZOO, declare_operators
from torch import nn
from traps import TRAPS
from util import START, assert_close, assert_unchanged, perturb, snapshot

from hairify import HairError, Plan, hairify, plan
from hairify._support.module_names import full_name
from hairify.errors import GraphError

pytestmark = [
    pytest.mark.zoo,
    pytest.mark.skipif(not INSTALLED, reason="spandrel is not installed"),
    pytest.mark.filterwarnings("ignore::hairify.errors.HairWarning"),
]

PUBLISHED = {"preset": "published"}
"""The page is of the published form, in which what is left alone and how levels are found shows best."""

BEHIND = "docs/zoo.md is behind: make zoo-page"
PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"
RESULTS = os.environ.get("HAIRIFY_ZOO_RESULTS")
CONVERTED = [name for name, network in ZOO.items() if not network.refused]


@pytest.fixture(scope="module", autouse=True)
def importable() -> None:
    """Whichever test comes first may import spandrel."""
    declare_operators()


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return ZOO[name].specimen.build().eval()


@functools.cache
def planned(name: str) -> Plan:
    """As users do it: in float32, without another argument, and with nothing held still."""
    return plan(build(name), **PUBLISHED)


def keep(name: str, made: Plan | None, errors: dict[str, float], **more: Any) -> None:
    """Write down what was measured, and compare it with the page where that is not about to be written."""
    measured = zoo_table.result(name, made, errors, **more)
    if RESULTS:
        Path(RESULTS).mkdir(parents=True, exist_ok=True)
        path = Path(RESULTS) / f"{measured['kind']}-{re.sub(r'[^A-Za-z0-9]+', '-', name)}.json"
        path.write_text(json.dumps(measured, indent=1), encoding="utf-8")
    elif PAGE.exists():
        assert zoo_table.structure(measured) in PAGE.read_text(encoding="utf-8"), BEHIND


@pytest.mark.parametrize("name", ZOO)
def test_a_network_obeys_every_law(name: str) -> None:
    network = ZOO[name]
    told = {"expert": network.expert_split, "why": network.why}
    if network.refused:
        model = build(name)
        before = snapshot(model)
        with pytest.raises(HairError, match=re.escape(network.refused)) as refused:
            hairify(model)
        assert_unchanged(model, before)
        keep(name, None, {}, refused=str(refused.value).partition("\n")[0], **told)
        return
    with network.held():
        specimen = dataclasses.replace(network.specimen, options=PUBLISHED)
        findings = examine(specimen)
    # What a network cannot do in float64, as at another size with masks of its own in float32, is not checked there.
    made = dataclasses.replace(findings.plan, unchecked=planned(name).unchecked)
    assert made == planned(name), "float64 gives another plan than float32"
    if (size := network.only_float32) is not None:
        examine(dataclasses.replace(specimen, sizes=(size, size), dtype=torch.float32))
    keep(name, findings.plan, findings.errors, **told)


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_has_its_row(name: str) -> None:
    """The traps have tests of their own; here they are measured for the page, or compared with it."""
    trap = TRAPS[name]
    if trap.refused is not None:
        keep(name, None, {}, kind="trap", refused=trap.refused)
    elif RESULTS:
        findings = examine(dataclasses.replace(trap.specimen, options=PUBLISHED | trap.specimen.options))
        keep(name, findings.plan, findings.errors, kind="trap")
    else:
        model = trap.specimen.build().double().eval()
        spread(model)
        keep(name, plan(model, **PUBLISHED | trap.specimen.options), {}, kind="trap")


@pytest.mark.parametrize("name", CONVERTED)
def test_the_split_is_an_experts_or_it_is_said_why(name: str) -> None:
    network = ZOO[name]
    agreed = planned(name).split in network.expert_split
    assert agreed != bool(network.why), f"{planned(name).split}, the expert's are {network.expert_split}"


@pytest.mark.parametrize("name", CONVERTED[::4])  # one law for all; other tests plan each of them
def test_the_split_may_be_given(name: str) -> None:
    network, expert = ZOO[name], ZOO[name].expert_split[0]
    with network.held(), torch.no_grad():
        model = build(name).double()
        spread(model)
        hair = hairify(model, split_at=expert)
        assert hair.plan.split == expert
        inputs = network.specimen.some(network.specimen.sizes[0], batch=2)
        for got, expected in zip(outputs(hair, inputs), outputs(model, inputs), strict=True):
            assert_close(got, expected, START[torch.float64])
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
    shows_where_weights_come_from(graph, made)


def shows_where_weights_come_from(graph: torch.fx.GraphModule, made: Plan) -> None:
    """Every operation of a hyper layer bears its name, and has its weights by box and HSN from the DAC, in this order.

    The first operation of a layer has no more than its name, later ones have a number behind it.
    """
    expected = {
        (f"boxes.{i}", layer, m): "base_" + full_name(block, layer).replace(".", "_")
        for i, level in enumerate(made.levels)
        for m, block in enumerate(level.blocks)
        for layer in level.layers
    }
    found: dict[str, list[str]] = {name: [] for name in expected.values()}
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target.__name__.startswith("hyper_"):
            box = called_module(node.args[1])
            entry, selecting, block = box.args
            name = expected[box.target, entry, block]
            found[name].append(node.name)
            assert box.name.startswith(f"{name}_weights")
            hsn = called_module(selecting)
            assert hsn.target == box.target.replace("boxes", "hsn")
            assert selecting.args[1] == (slice(None), block)
            standardization = called_module(hsn.args[0])
            assert standardization.target == "standardization"
            dac = called_module(standardization.args[0])
            assert dac.target == "dac"
            assert "read_feature" in names_above(dac)
    for name, operations in found.items():
        assert operations[:1] == [name], f"{name} is called {operations}"
        assert all(re.fullmatch(rf"{name}_\d+", later) for later in operations[1:]), operations
    shown = set(re.findall(r"\w+", graph.code))
    assert not {"dac", "hsn", "boxes", "read_feature", *found} - shown


def called_module(node: torch.fx.Node) -> torch.fx.Node:
    """The call of a module from which a value is picked."""
    while node.op != "call_module":
        assert node.target is operator.getitem
        node = node.args[0]  # type: ignore[assignment]
    return node


def names_above(node: torch.fx.Node) -> set[str]:
    """Of all nodes that one depends on."""
    above = dict.fromkeys(node.all_input_nodes)
    for each in (waiting := list(above)):
        waiting += [n for n in each.all_input_nodes if n not in above]
        above.update(dict.fromkeys(each.all_input_nodes))
    return {n.name for n in above}


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


def test_nearly_all_architectures_convert_without_an_argument() -> None:
    architectures = {network.architecture for network in ZOO.values()} | set(EXCLUDED)
    not_converted = {network.architecture for network in ZOO.values() if network.refused} | set(EXCLUDED)
    assert not any(network.specimen.options for network in ZOO.values())
    assert len(not_converted) <= 0.05 * len(architectures), not_converted


def test_the_page_follows_from_its_rows() -> None:
    """Its counts, lists and words are what `page` writes today of the rows that are there; the errors are allowed."""
    if RESULTS or not PAGE.exists():
        pytest.skip("`make zoo-page` is about to write it")
    text = PAGE.read_text(encoding="utf-8")
    rows = [zoo_table.from_row(line) for line in text.splitlines() if re.match(r"\| [^|]+ \| `", line)]
    assert max(error for row in rows for error in row["errors"].values()) <= START[torch.float64]
    measured = {row["name"]: row for row in rows}
    expected = CONVERTED + [name for name, trap in TRAPS.items() if not trap.refused]
    assert sorted(measured) == sorted(expected), BEHIND
    results = [
        measured.get(name, {"name": name}) | {"kind": "spandrel", "expert": network.expert_split, "why": network.why}
        for name, network in ZOO.items()
    ]
    results += [
        measured.get(name, {"name": name}) | {"kind": "trap", "refused": trap.refused} for name, trap in TRAPS.items()
    ]
    assert text == zoo_table.page(results), BEHIND
