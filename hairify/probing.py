"""Running a model to see what its modules receive and return, without leaving a mark on it.

A `Probe` works on a copy of the model in evaluation mode. Every run gets a copy of that copy (its
parameters shared), cloned inputs, and a random state of its own, so that attributes assigned in `forward`,
buffers that move, inputs overwritten and random numbers drawn change nothing and repeat exactly.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hairify.copying import copy_model
from hairify.errors import ExampleInputError
from hairify.features import Size, image_size, tensors
from hairify.recording import Recorder, Recording

_SEED = 0
_SIZES: tuple[Size, ...] = ((64, 96), (128, 192), (64, 64), (128, 128), (48, 48), (256, 256))
# Non-square first: only then can a feature map be told from a window or an attention map.


@dataclass(frozen=True)
class Inputs:
    """Arguments of one call of a model.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        batched: for each tensor among them, whether its first dimension is that of the first tensor, the image.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batched: tuple[bool, ...]

    @classmethod
    def of(cls, example: Any) -> Inputs:
        """From what users give as `example_inputs`: a tensor, a tuple or list of arguments, or a dict of keywords.

        Raises:
            ExampleInputError: there is no batch of images in it.
        """
        kwargs = dict(example) if isinstance(example, Mapping) else {}
        args = () if kwargs else tuple(example) if isinstance(example, (tuple, list)) else (example,)
        found = tensors((args, kwargs))
        if not found or not found[0].ndim or not found[0].shape[0]:
            raise ExampleInputError(
                "`example_inputs` holds no batch of images; give one, such as torch.rand(1, 3, 64, 96)."
            )
        batch = found[0].shape[0]
        return cls(args, kwargs, tuple(t.ndim > 0 and t.shape[0] == batch for t in found))

    def map(self, fn: Callable[..., Tensor], *others: Inputs, batched_only: bool = False) -> Inputs:
        """The same arguments with `fn` applied to every tensor, and to those of `others` in its place."""
        flat, spec = pytree.tree_flatten((self.args, self.kwargs))
        changed = iter(
            [
                fn(*each) if batched or not batched_only else each[0]
                for batched, *each in zip(self.batched, self.tensors, *(o.tensors for o in others), strict=True)
            ]
        )
        leaves = [next(changed) if isinstance(leaf, Tensor) else leaf for leaf in flat]
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return Inputs(args, kwargs, self.batched)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in order; the first one is the image."""
        return tensors((self.args, self.kwargs))

    @property
    def batch(self) -> int:
        """Number of images: the first dimension of the first tensor."""
        return self.tensors[0].shape[0]

    @property
    def image(self) -> Size | None:
        """(H, W) of the images."""
        return image_size(self.args, self.kwargs)

    def describe(self) -> str:
        """Shapes, for plans and messages: `(1, 3, 64, 96)`, or `x=(1, 3, 64, 96)` for keywords."""
        shapes = [str(tuple(t.shape)) for a in self.args for t in tensors(a)]
        shapes += [f"{k}={tuple(t.shape)}" for k, a in self.kwargs.items() for t in tensors(a)]
        return ", ".join(shapes)


class Probe:
    """Runs copies of a model on example inputs.

    Args:
        model: left as it is.
        example_inputs: see `hairify`; None tries usual ones.

    Raises:
        ExampleInputError: the model rejects the inputs.
        CopyError: the model cannot be copied.
    """

    def __init__(self, model: nn.Module, example_inputs: Any = None) -> None:
        if (
            scripted := next((n for n, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)), None)
        ) is not None:
            raise ExampleInputError(
                f"The module {scripted!r} is TorchScript, whose inside cannot be seen. Give the model before scripting."
            )
        if lazy := next((n for n, p in model.named_parameters() if nn.parameter.is_lazy(p)), None):
            raise ExampleInputError(
                f"The parameter {lazy!r} is lazy and not initialised yet. Run the model once on an image first."
            )
        self.model = _without_zeros(copy_model(model).requires_grad_(False).eval())
        candidates = [Inputs.of(example_inputs)] if example_inputs is not None else _default_inputs(self.model)
        failures: dict[str, list[str]] = {}
        for inputs in candidates:
            self.inputs = inputs.map(lambda t: t[:1], batched_only=True)  # the first image alone
            try:
                self.recording = self.run()
            except Exception as error:
                why = f"{type(error).__name__}: {str(error).strip()[:300]}"
                failures.setdefault(why, []).append(inputs.describe())
            else:
                return
        tried = "\n".join(f"  {'; '.join(shapes)}: {why}" for why, shapes in failures.items())
        raise ExampleInputError(
            f"The model ({type(model).__name__}) cannot be run on "
            + ("`example_inputs`:" if example_inputs is not None else "any of the inputs tried by default:")
            + f"\n{tried}\nGive `example_inputs` (a tensor, a tuple of arguments or a dict of keywords) with which "
            "the model runs in evaluation mode. A tensor whose first dimension is that of the first tensor, the "
            "image, counts as batched: a batch size that no other dimension has tells them apart."
        )

    def copy(self, *, training: bool, batch_norm: bool) -> nn.Module:
        """A copy of the model; `training` and `batch_norm` as for `run`."""
        # In training mode momentum encoders write into parameters.
        model = copy_model(self.model, share_parameters=not training).train(training)
        for module in () if batch_norm else model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return model

    def run(
        self,
        inputs: Inputs | None = None,
        *,
        cut_at: str | None = None,
        mark_images: bool = False,
        training: bool = False,
        batch_norm: bool = True,
    ) -> Recording:
        """Run the model once on a fresh copy.

        Args:
            inputs: None for the example inputs.
            cut_at: a module at whose first output the autograd graph starts, so that whatever depends on it
                requires a gradient; without it no graph is recorded.
            mark_images: fill in `Returned.marks`.
            training: run in training mode.
            batch_norm: then also BatchNorm, which otherwise stays in evaluation mode.
        """
        model = self.copy(training=training, batch_norm=batch_norm)
        inputs = (inputs or self.inputs).map(torch.clone)
        recorder = Recorder(model, cut_at, inputs.batch if mark_images else None)
        with isolated(model), torch.set_grad_enabled(cut_at is not None), recorder:
            recorder.recording.output = model(*inputs.args, **inputs.kwargs)
        if inspect.isgenerator(recorder.recording.output):
            raise ExampleInputError(
                f"The forward of the model ({type(model).__name__}) is a generator. Its body runs when the caller "
                "iterates, after the forward has ended, and has no weights then: return a list instead."
            )
        return recorder.recording


def _without_zeros(model: nn.Module) -> nn.Module:
    """Move parameters off zero: behind a zero (a fresh residual scale, a last layer) nothing could be observed."""
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and not parameter.is_meta and not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def _default_inputs(model: nn.Module) -> Iterator[Inputs]:
    """Inputs to try: one image for each required positional argument, in the model's dtype and device."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    try:
        signature = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a forward without a Python signature
        signature = ()  # type: ignore[assignment]
    required = [p for p in signature if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    first_conv = next((m.in_channels for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d))), 3)
    generator = torch.Generator().manual_seed(_SEED)
    further = len(required) - 1
    for (height, width), channels in itertools.product(_SIZES, dict.fromkeys((3, first_conv, 1, 4))):
        for others in dict.fromkeys((channels, 1)) if further > 0 else (channels,):  # further images, or masks
            shapes = [(1, c, height, width) for c in (channels, *(others,) * further)]
            yield Inputs.of(tuple(torch.rand(shape, generator=generator).to(parameter) for shape in shapes))


@contextlib.contextmanager
def isolated(model: nn.Module) -> Iterator[None]:
    """Own random state, no autocast and no inference mode, whatever the caller is in. For running a copy of a model."""
    devices = {t.device for t in itertools.chain(model.parameters(), model.buffers())}
    accelerators = [d for d in devices if d.type not in ("cpu", "meta")]
    kinds = {d.type for d in devices} or {"cpu"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for kind in kinds - {"meta"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for device in accelerators:
            stack.enter_context(torch.random.fork_rng([device.index or 0], device_type=device.type))
        torch.manual_seed(_SEED)
        stack.enter_context(_python_randomness())
        yield


@contextlib.contextmanager
def _python_randomness() -> Iterator[None]:
    """Own random state also for `random`, and for numpy if it is in use."""
    numpy = sys.modules.get("numpy")
    states = random.getstate(), numpy.random.get_state() if numpy else None
    random.seed(_SEED)
    if numpy:
        numpy.random.seed(_SEED)
    try:
        yield
    finally:
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])
