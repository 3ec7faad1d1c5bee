"""The laws that every converted network obeys, as one examination: for the zoo, the traps and the fuzz test."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from util import assert_unchanged, perturb, snapshot

from hairify import HairModel, Plan, hairify
from hairify.copying import copy_model
from hairify.features import all_tensors

Size: TypeAlias = tuple[int, int]
MakeInputs: TypeAlias = Callable[[int, Size], Any]

BATCH = 3  # few dimensions of a small network are 3 by chance, so it tells what is batched
TOLERANCE = 1e-10  # float64, relative to the largest value


def images(channels: int = 3) -> MakeInputs:
    """Random images of the given number of channels, float64 in [0, 1)."""
    return lambda batch, size: torch.rand(batch, channels, *size, dtype=torch.float64)


@dataclass(frozen=True)
class Specimen:
    """A network and how it is called.

    Attributes:
        build: makes it; float32, any mode.
        inputs: (batch, (H, W)) -> what it takes: a tensor, a tuple of arguments or a dict of keywords.
        sizes: two image sizes that it takes; large enough for the DAC, and not square.
        options: for `hairify`; {} is what the promise speaks of.
    """

    build: Callable[[], nn.Module]
    inputs: MakeInputs = field(default_factory=lambda: images())
    sizes: tuple[Size, Size] = ((64, 96), (96, 64))
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Findings:
    """What an examination measured: the plan, and by law the largest error relative to the largest value."""

    plan: Plan
    errors: dict[str, float] = field(default_factory=dict)

    def compare(self, law: str, got: Any, expected: Any) -> None:
        """Outputs are equal, tensor for tensor; keeps the largest error of the law."""
        a, b = flat(got), flat(expected)
        assert [t.shape for t in a] == [t.shape for t in b], f"{law}: the shapes differ"
        for t, u in zip(a, b, strict=True):
            assert bool(t.isfinite().all()), f"{law}: not finite"
            error = float((t - u).abs().max() / u.abs().max().clamp_min(1e-30)) if t.numel() else 0.0
            self.errors[law] = max(error, self.errors.get(law, 0.0))
            assert error <= TOLERANCE, f"{law}: differs by {error:.3g} of the largest value, allowed {TOLERANCE:.3g}"


def examine(specimen: Specimen) -> Findings:
    """Convert a network and check every law on it.

    Raises:
        AssertionError: a law does not hold.
        HairError: it cannot be converted.
    """
    torch.manual_seed(0)
    model = specimen.build().double().eval()
    spread(model)
    before = snapshot(model)
    hair = hairify(model, **specimen.options)
    assert_unchanged(model, before)
    findings = Findings(hair.plan)
    with torch.no_grad():
        for size in specimen.sizes:
            starts_at_the_original(findings, hair, model, specimen.inputs(BATCH, size))
        perturb(hair)
        for size in specimen.sizes:
            keeps_images_apart(findings, hair, model, specimen.inputs(BATCH, size))
    passes_gradients(hair, specimen.inputs(BATCH, specimen.sizes[0]))
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
    vectors = call(hair.selecting_vectors, inputs)
    assert any((v[0] - v[1]).abs().max() > 1e-6 for v in vectors.values()), "the images get the same weights"
    together = flat(call(hair, inputs))
    for i in range(BATCH):
        alone = [t[i::BATCH] if t.ndim and t.shape[0] == BATCH else t for t in together]
        findings.compare("batch = singles", call(hair, take(inputs, i)), alone)
        static = call(hair.bake, take(inputs, i))
        assert type(static) is type(model)
        assert list(static.state_dict()) == list(model.state_dict()), "baking changes the keys"
        findings.compare("bake", call(static, take(inputs, i)), call(hair, take(inputs, i)))


def passes_gradients(hair: HairModel, inputs: Any) -> None:
    """DAC, HSNs and boxes all learn, and no gradient is broken."""
    hair = copy.deepcopy(hair).train()  # some networks write in place what they need, except in training
    sum(t.square().mean() for t in flat(call(hair, inputs)) if t.requires_grad).backward()  # type: ignore[union-attr]
    for name, parameter in hair.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), f"the gradient of {name} is broken"
    parts = {"dac": hair.dac, **{f"hsn.{i}": m for i, m in enumerate(hair.hsn)}}
    parts |= {f"boxes.{i}": m for i, m in enumerate(hair.boxes)}
    still = [
        n
        for n, part in parts.items()
        if any(p.requires_grad for p in part.parameters())
        and not any(p.grad is not None and p.grad.any() for p in part.parameters())
    ]
    assert not still, f"without a gradient: {still}"


def spread(model: nn.Module) -> None:
    """Move what starts at zero (residual scales, last layers), so that every layer matters and passes gradients."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.numel() and not parameter.any():
                parameter.normal_(std=0.1)


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Call with copies of the inputs: some networks write into theirs."""
    return apply(model, pytree.tree_map_only(Tensor, torch.clone, inputs))


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
