"""The laws that every converted network obeys, as one examination: for the zoo, the traps and the fuzz test."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from util import START, assert_unchanged, perturb, snapshot

from hairify import HairModel, Plan, hairify
from hairify._support.copying import copy_model
from hairify._support.nested import all_tensors

Size: TypeAlias = tuple[int, int]
MakeInputs: TypeAlias = Callable[[int, Size], Any]

BATCH = 3  # few dimensions of a small network are 3 by chance, so it tells what is batched
DIFFERENCE = 1e-9  # of the logits of two images; those of one image differ by rounding, about 1e-16
GRADIENTS = {torch.float32: 1e-3, torch.float64: 1e-8}  # as START; rounding adds up over all pixels and layers


def images(channels: int = 3) -> MakeInputs:
    """Random images of the given number of channels, float64 in [0, 1); some are darker, which DACs can tell."""

    def make(batch: int, size: Size) -> Tensor:
        brightness = 0.25 + 0.75 * torch.rand(batch, 1, 1, 1, dtype=torch.float64)
        return brightness * torch.rand(batch, channels, *size, dtype=torch.float64)

    return make


@dataclass(frozen=True)
class Specimen:
    """A network and how it is called.

    Attributes:
        build: makes it; float32, any mode.
        inputs: (batch, (H, W)) -> what it takes: a tensor, a tuple of arguments or a dict of keywords.
        sizes: two image sizes that it takes, of another area and another aspect; not square.
        options: for `hairify`; {} is what the promise speaks of.
        dtype: what it is examined in.
    """

    build: Callable[[], nn.Module]
    inputs: MakeInputs = field(default_factory=lambda: images())
    sizes: tuple[Size, Size] = ((64, 96), (56, 40))
    options: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64

    def some(self, size: Size, batch: int = BATCH) -> Any:
        """A batch of inputs in `dtype`."""
        return pytree.tree_map_only(Tensor, self._cast, self.inputs(batch, size))

    def _cast(self, t: Tensor) -> Tensor:
        return t.to(self.dtype) if t.is_floating_point() else t


@dataclass
class Findings:
    """What an examination measured: the plan, and by law the largest error relative to the largest value."""

    plan: Plan
    errors: dict[str, float] = field(default_factory=dict)
    tolerance: float = START[torch.float64]

    def compare(self, law: str, got: Any, expected: Any) -> None:
        """Outputs are equal, tensor for tensor; keeps the largest error of the law."""
        a, b = flat(got), flat(expected)
        assert [t.shape for t in a] == [t.shape for t in b], f"{law}: the shapes differ"
        for t, u in zip(a, b, strict=True):
            assert bool(t.isfinite().all()), f"{law}: not finite"
            error = float((t - u).abs().max() / u.abs().max().clamp_min(1e-30)) if t.numel() else 0.0
            self.errors[law] = max(error, self.errors.get(law, 0.0))
            assert error <= self.tolerance, (
                f"{law}: differs by {error:.3g} of the largest value, allowed {self.tolerance:.3g}"
            )


def examine(specimen: Specimen) -> Findings:
    """Convert a network and check every law on it.

    Raises:
        AssertionError: a law does not hold.
        HairError: the network cannot be converted.
    """
    torch.manual_seed(0)
    model = specimen.build().eval()
    if specimen.dtype == torch.float64:  # by this method, for complex networks have one of their own
        model.double()
    spread(model)
    before = snapshot(model)
    hair = hairify(model, **specimen.options)
    assert_unchanged(model, before)
    findings = Findings(hair.plan, tolerance=START[specimen.dtype])
    some = [specimen.some(size) for size in dict.fromkeys(specimen.sizes)]
    with torch.no_grad():
        for inputs in some:
            starts_at_the_original(findings, hair, model, inputs)
    starts_with_its_gradients(hair, model, some[0], GRADIENTS[specimen.dtype])
    perturb(hair)
    with torch.no_grad():
        for inputs in some:
            keeps_images_apart(findings, hair, model, inputs)
    passes_gradients(hair, some[0])
    assert_unchanged(model, before, random=False)
    return findings


def starts_at_the_original(findings: Findings, hair: HairModel, model: nn.Module, inputs: Any) -> None:
    """The converted network computes the original function, in evaluation and, draw for draw, in training mode."""
    for mode, training in (("warm start", False), ("warm start, training", True)):
        converted, original = copy.deepcopy(hair).train(training), copy_model(model).train(training)
        torch.manual_seed(1)
        expected = call(original, inputs)
        torch.manual_seed(1)
        findings.compare(mode, call(converted, inputs), expected)
        buffers = dict(converted.base.named_buffers())
        for name, buffer in original.named_buffers():
            assert torch.allclose(buffers[name].double(), buffer.double(), equal_nan=True), f"{mode}: buffer {name}"


def keeps_images_apart(findings: Findings, hair: HairModel, model: nn.Module, inputs: Any) -> None:
    """A batch equals its images alone, and each image its own static network."""
    tells_images_apart(hair, inputs)
    together = flat(call(hair, inputs))
    for i in range(BATCH):
        alone = [t[i::BATCH] if t.ndim and t.shape[0] == BATCH else t for t in together]
        findings.compare("batch = singles", call(hair, take(inputs, i)), alone)
        static = call(hair.bake, take(inputs, i))
        assert type(static) is type(model)
        assert list(static.state_dict()) == list(model.state_dict()), "baking changes the keys"
        findings.compare("bake", call(static, take(inputs, i)), call(hair, take(inputs, i)))


def tells_images_apart(hair: HairModel, inputs: Any) -> None:
    """Every block's selecting vectors differ between the images, where there is more than one row to select."""
    vectors = call(hair.selecting_vectors, inputs)
    logits = {name: v.log() for name, v in vectors.items() if v.shape[1] > 1}  # the softmax may be nearly saturated
    same = [name for name, v in logits.items() if (v[0] - v[1]).abs().max() < DIFFERENCE]
    assert not same, f"the images get the same weights in {same}"


def starts_with_its_gradients(hair: HairModel, model: nn.Module, inputs: Any, tolerance: float) -> None:
    """The layers that were kept get the gradients that they had; the tolerance is relative to the largest of them."""
    original = gradients(copy_model(model), inputs)
    converted = gradients(copy.deepcopy(hair), inputs)
    scale = max((float(g.abs().max()) for g in original.values() if g is not None and g.numel()), default=0.0)
    for name, _ in hair.base.named_parameters():
        got, expected = converted[f"base.{name}"], original[name]
        assert (got is None) == (expected is None), f"only one of the networks gives {name} a gradient"
        if got is not None and expected is not None and got.numel():
            error = float((got - expected).abs().max()) / max(scale, 1e-30)
            assert error <= tolerance, f"the gradient of {name} differs by {error:.3g} of the largest one"


def passes_gradients(hair: HairModel, inputs: Any) -> None:
    """Every parameter of DAC, HSNs and boxes that is to be trained learns, and no gradient is broken."""
    found = gradients(copy.deepcopy(hair), inputs)
    broken = [name for name, g in found.items() if g is not None and not g.isfinite().all()]
    assert not broken, f"the gradients of {broken} are broken"
    added = [n for n, p in hair.named_parameters() if p.requires_grad and not n.startswith("base.")]
    still = [n for n in added if (g := found[n]) is None or not g.any()]
    assert not still, f"without a gradient: {still}"


def gradients(model: nn.Module, inputs: Any) -> dict[str, Tensor | None]:
    """By parameter, those of a sum over the output in training mode; the random draws are the same in every call."""
    model.train()  # some networks write in place what they need, except in training
    torch.manual_seed(1)
    if terms := [t.square().mean() for t in flat(call(model, inputs)) if t.requires_grad]:
        torch.stack(terms).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def spread(model: nn.Module) -> None:
    """Move what starts at zero (residual scales, last layers), so that every layer matters and passes gradients."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.numel() and not parameter.any():
                parameter.normal_(std=0.1)


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Call with copies of the inputs: some networks write into theirs."""
    return apply(model, pytree.tree_map_only(Tensor, same_layout, inputs))


def same_layout(t: Tensor) -> Tensor:
    """A copy that lies in memory as the tensor does, gaps included; `clone` would close them."""
    return t.new_empty(0).set_(t.untyped_storage().clone(), t.storage_offset(), t.shape, t.stride())


def apply(fn: Callable[..., Any], inputs: Any) -> Any:
    """Call with a tensor, a tuple of arguments or a dict of keywords."""
    if isinstance(inputs, dict):
        return fn(**inputs)
    return fn(*inputs) if isinstance(inputs, tuple) else fn(inputs)


def take(inputs: Any, i: int) -> Any:
    """The inputs of image i alone."""
    return pytree.tree_map_only(Tensor, lambda t: t[i : i + 1] if t.ndim and t.shape[0] == BATCH else t, inputs)


def flat(output: Any) -> list[Tensor]:
    """The floating-point tensors of an output, in order."""
    found = [t for t in all_tensors(output) if t.is_floating_point()]
    assert found, "the output holds no tensor"
    return found
