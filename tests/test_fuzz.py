"""The laws on random networks.

A failure prints the recipe, which is all that `examine(Recipe(...))` needs to fail again, and the seed. Another
HAIRIFY_FUZZ_SEED draws other networks; HAIRIFY_FUZZ_EXAMPLES says how many of them the slow test draws.
"""

from __future__ import annotations

import copy
import os

import pytest
import torch
from fuzz_networks import Network, Recipe, recipes
from hypothesis import HealthCheck, Phase, event, given, note, seed, settings
from laws import (
    GRADIENTS,
    Findings,
    Specimen,
    call,
    flat,
    passes_gradients,
    spread,
    starts_with_its_gradients,
    take,
    tells_images_apart,
)
from util import assert_unchanged, perturb, snapshot

from hairify import HairError, HairModel, hairify, plan
from hairify.errors import BoxSizeError, NothingToConvertError, SplitError
from hairify.nn import HyperLayer
from hairify.nn._layers import is_layer

pytestmark = [
    pytest.mark.filterwarnings("ignore::hairify.errors.HairWarning"),
    pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning"),
]

SEED = int(os.environ.get("HAIRIFY_FUZZ_SEED", "0"))
EXAMPLES = int(os.environ.get("HAIRIFY_FUZZ_EXAMPLES", "2000"))
PARTS = 4  # for as many workers
MOST_REFUSED = 0.15
# To explain a failure, hypothesis runs hundreds of networks more; the smallest recipe says enough.
fuzzing = settings(suppress_health_check=list(HealthCheck), phases=set(Phase) - {Phase.explain})


def expected_errors(recipe: Recipe) -> tuple[type[HairError], ...]:
    """What may be said of a recipe: only options can make a split fail, or a box too small."""
    options = dict(recipe.options)
    errors: list[type[HairError]] = [NothingToConvertError]
    if "split_at" in options:
        errors.append(SplitError)
    if "box_size" in options and "init" not in options and "box" not in options:
        errors.append(BoxSizeError)
    return tuple(errors)


def examine(recipe: Recipe) -> HairModel | None:
    """As `laws.examine`, with fewer forwards; None where the network is refused as may be expected."""
    torch.manual_seed(0)
    specimen: Specimen = recipe.specimen()
    model = specimen.build().double().eval()
    assert isinstance(model, Network)
    spread(model)
    before = snapshot(model)
    example = specimen.options["example_inputs"]
    shown = [t.clone() for t in flat(example)]
    try:
        hair = hairify(model, **specimen.options)
    except expected_errors(recipe):
        assert_unchanged(model, before)
        if not recipe.options:  # then it must be that nothing can be converted, not that the split was a poor choice
            with pytest.raises(NothingToConvertError):
                plan(model, split_at="head", targets="layers", example_inputs=specimen.options["example_inputs"])
        return None
    assert_unchanged(model, before)
    assert all(map(torch.equal, flat(example), shown)), "the example inputs changed"
    matches_its_plan(hair, model)
    findings, small, large = Findings(hair.plan), *(specimen.inputs(3, size) for size in specimen.sizes)
    if hair.plan.init == "preserve":
        with torch.no_grad():
            starts_at_the_original(findings, hair, model, small, large)
        starts_with_its_gradients(hair, model, small, GRADIENTS[torch.float64])
    perturb(hair)
    with torch.no_grad():
        tells_images_apart(hair, large)
        if hair.plan.split == model.tokens():
            for inputs in (small, large):
                folds_tokens_as_the_network(hair, inputs)
        together = flat(call(hair, large))
        for i in (0, 2):
            findings.compare("batch = singles", call(hair, take(large, i)), [t[i : i + 1] for t in together])
        static = call(hair.bake, take(large, 1))
        assert type(static) is type(model)
        assert list(static.state_dict()) == list(model.state_dict())
        findings.compare("bake", call(static, take(large, 1)), [t[1:2] for t in together])
    passes_gradients(hair, small)
    assert_unchanged(model, before, random=False)
    return hair


def matches_its_plan(hair: HairModel, model: Network) -> None:
    """Every layer is converted or has its reason; what must stay stays; the plan's numbers are true."""
    converted = {name for name, module in hair.base.named_modules() if isinstance(module, HyperLayer)}
    planned = {name for level in hair.plan.levels for layer in level.layers for name in level.layer_names(layer)}
    layers = {name for name, module in model.named_modules() if is_layer(module)}
    assert converted == planned
    assert layers == converted | {n for n in hair.plan.skipped if is_layer(model.get_submodule(n))}
    assert not converted & hair.plan.skipped.keys()
    assert not converted & model.stay()
    assert hair.plan.parameters == tuple(sum(p.numel() for p in m.parameters()) for m in (model, hair))
    for level, box in zip(hair.plan.levels, hair.boxes, strict=True):
        for layer in level.layers:
            for name in ("weight", "bias"):
                sources = [getattr(model.get_submodule(n), name) for n in level.layer_names(layer)]
                rows = dict(box.named_parameters()).get(f"{layer}.{name}".lstrip("."))
                assert (rows is None) == (sources[0] is None)
                assert rows is None or rows.requires_grad == any(s.requires_grad for s in sources)


def starts_at_the_original(findings: Findings, hair: HairModel, model: Network, small: object, large: object) -> None:
    converted, original = copy.deepcopy(hair), copy.deepcopy(model)
    findings.compare("warm start", call(converted, small), call(original, small))
    converted.train(), original.train()
    outputs = []
    for net in (original, converted):
        torch.manual_seed(1)
        outputs.append(call(net, large))
    findings.compare("warm start, training", outputs[1], outputs[0])
    buffers = dict(converted.base.named_buffers())
    for name, buffer in original.named_buffers():
        assert torch.allclose(buffers[name].double(), buffer.double(), rtol=1e-8), f"buffer {name}"


def folds_tokens_as_the_network(hair: HairModel, inputs: object) -> None:
    """What the DAC gets is the network's own map, padding included, also of another size than the example's."""
    seen = []
    handle = hair.dac.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    call(hair, inputs)
    handle.remove()
    assert torch.equal(seen[0], hair.base.get_submodule(hair.plan.split.removesuffix(".mix")).padded)


def fuzz(examples: int, start: int) -> None:
    """Examine random networks; few of them are refused, or little would be examined."""
    refused = []

    @seed(start)
    @settings(fuzzing, max_examples=examples)
    @given(recipes())
    def each(recipe: Recipe) -> None:
        note(f"HAIRIFY_FUZZ_SEED={SEED}")
        hair = examine(recipe)
        refused.append(hair is None)
        event("refused" if hair is None else f"converted, {hair.plan.tracer}")

    each()
    most = MOST_REFUSED * len(refused) + 5  # a few more may come together by chance, which matters in short runs alone
    assert sum(refused) <= most, f"{sum(refused)} of {len(refused)} networks are refused, HAIRIFY_FUZZ_SEED={SEED}"


@pytest.mark.slow
def test_a_random_network_obeys_the_laws() -> None:
    fuzz(60, SEED * (PARTS + 1))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_thousands_of_random_networks_obey_the_laws(part: int) -> None:
    fuzz(EXAMPLES // PARTS, SEED * (PARTS + 1) + 1 + part)
