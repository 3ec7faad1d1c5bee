"""Running a model to see what its modules receive and return, without leaving a mark on it.

A `Probe` works on a copy of the model in evaluation mode. Every run gets a copy of that copy (its
parameters shared), cloned inputs, and a random state of its own, so that attributes assigned in `forward`,
buffers that move, inputs overwritten and random numbers drawn change nothing and repeat exactly.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from hairify._support.copying import copy_model
from hairify._support.isolation import SEED, isolated, pass_on_lack_of_memory
from hairify._support.module_names import tied_layers
from hairify._support.torch_internals import BATCH_NORM
from hairify.errors import ExampleInputError
from hairify.planning._inputs import Inputs, default_inputs
from hairify.planning._recording import Recorder, Recording


class Probe:
    """Runs copies of a model on example inputs.

    Args:
        model: left as it is.
        example_inputs: see `hairify`; None tries usual ones.

    Attributes:
        model: the copy.
        tied: the model's layers that share parameters, or the memory of one, with another module, as `tied_layers`.
        inputs: one image, on which it runs.
        recording: the run on it.
        failure_with_gradients: how that run fails where gradients are recorded, or None.

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
        if meta := next((n for n, p in model.named_parameters() if p.is_meta), None):
            raise ExampleInputError(
                f"The parameter {meta!r} is on the meta device and has no values, with which alone the model can be "
                "run. Load its weights first (`load_state_dict(..., assign=True)`), or carry out a plan that was made "
                "of a network with values: `hairify(model, plan=...)`."
            )
        self.failure_with_gradients: str | None = None
        self.tied = tied_layers(model)  # a copy has memory of its own for each parameter
        self.model = _without_zeros(copy_model(model).requires_grad_(False).eval())
        candidates = [Inputs.of(example_inputs)] if example_inputs is not None else default_inputs(self.model)
        failures: dict[str, list[str]] = {}
        for inputs in candidates:
            self.inputs = inputs.map(lambda t: t[:1], batched_only=True)  # the first image alone
            try:
                self.recording = self._first_run()
            except Exception as error:
                pass_on_lack_of_memory(error)
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

    def copy(self, *, training: bool) -> nn.Module:
        """A copy of the model; `training` as for `run`."""
        # In training mode momentum encoders write into parameters.
        model = copy_model(self.model, share_parameters=not training).train(training)
        for module in model.modules():
            if isinstance(module, BATCH_NORM):
                module.eval()
        return model

    def run(
        self,
        inputs: Inputs | None = None,
        *,
        graph_from: Collection[str] | None = None,
        fingerprints: bool = False,
        mark_images: bool = False,
        training: bool = False,
        saved: bool = False,
    ) -> Recording:
        """Run the model once on a fresh copy.

        Args:
            inputs: None for the example inputs.
            graph_from: names of the modules at whose outputs the graph of gradients starts, so that it shows what
                depends on them; parameters are frozen. None records no gradients.
            fingerprints: fill in `Received.prints`.
            mark_images: fill in `Returned.prints`.
            training: run in training mode, but for BatchNorm, which mixes images rightly.
            saved: keep what the graph saves for a backward pass, which takes memory, and is needed only by a model
                that computes gradients in its own forward.
        """
        model = self.copy(training=training)
        inputs = (inputs or self.inputs).map(torch.clone)
        recorder = Recorder(model, graph_from, fingerprints, inputs.batch if mark_images else None)
        keeping = contextlib.nullcontext() if graph_from is None or saved else _without_saved_tensors()
        with isolated(model), torch.set_grad_enabled(graph_from is not None), recorder, keeping:
            recorder.recording.output = model(*inputs.args, **inputs.kwargs)
        if inspect.isgenerator(recorder.recording.output):
            raise ExampleInputError(
                f"The forward of the model ({type(model).__name__}) is a generator. Its body runs when the caller "
                "iterates, after the forward has ended, and has no weights then: return a list instead."
            )
        return recorder.recording

    def _first_run(self) -> Recording:
        """With a graph of gradients from all modules on, if the model runs where gradients are recorded."""
        try:
            return self.run(graph_from={name for name, _ in self.model.named_modules()})
        except Exception as error:
            pass_on_lack_of_memory(error)
            recording = self.run()
            self.failure_with_gradients = f"{type(error).__name__}: {error}"
            return recording


def _without_saved_tensors() -> AbstractContextManager[Any]:
    """Within it, the autograd graph shows what depends on what, but cannot be run backward."""

    def refuse(_: None) -> Tensor:
        raise RuntimeError("this run is only recorded, and has no backward pass")

    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, refuse)


def _without_zeros(model: nn.Module) -> nn.Module:
    """Move parameters off zero: behind a zero (a fresh residual scale, a last layer) nothing could be observed."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and not parameter.is_meta and not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator, device="cpu"))
    return model
