"""Restorers in single files of tensors, which programs open that load networks by the package spandrel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hairify.errors import CheckpointError, NetworkError
from hairify.model import HairModel
from hairify.networks._named import Network
from hairify.networks._running import apply
from hairify.serialization import as_tensor, as_text, from_tensors, to_tensors
from hairify.sharing._hub import Restorer
from hairify.sharing._single_files import check_path, tensors_of, write_tensors

_KEY = "hairify.restorer"
_FORMAT = 1


def save_for_spandrel(restorer: Restorer, path: Path) -> None:
    """Write a restorer to one safetensors file, which spandrel opens where `register_with_spandrel` was called.

    Args:
        restorer: of one of hairify's networks, or of one that spandrel recognised.
        path: the file, ending in .safetensors.

    Raises:
        NetworkError: the network, or its DAC, is of somebody's own code, which such a file cannot name.
        CheckpointError: the model cannot be saved.
        OptionError: the ending is another, or there is no such folder.
    """
    check_path(path, (".safetensors",))
    own = restorer.dac if restorer.network.is_built_in else restorer.network.name
    if own is not None:
        raise NetworkError(
            f"The restorer needs {own!r}, and a file that others open does not decide which code runs. Bake it "
            "(`hairify bake`), or share its folder (`hairify push`)."
        )
    write_tensors(to_spandrel_tensors(restorer), path)


def to_spandrel_tensors(restorer: Restorer) -> dict[str, Tensor]:
    """The tensors of which such a file consists."""
    model, network = restorer.model, restorer.network
    about = {
        "format": _FORMAT,
        "network": {"name": network.name, "options": dict(network.options)},
        "converted": isinstance(model, HairModel),
        "multiple": restorer.multiple,
    }
    state = to_tensors(model) if isinstance(model, HairModel) else tensors_of(model)
    return state | {_KEY: as_tensor(json.dumps(about, sort_keys=True))}


def from_spandrel_tensors(tensors: Mapping[str, Tensor]) -> Restorer:
    """The restorer of which `to_spandrel_tensors` made tensors, its model in evaluation mode on the CPU.

    Raises:
        CheckpointError: they are none of those, or damaged.
        NetworkError: the network cannot be built.
    """
    state = dict(tensors)
    try:
        about: dict[str, Any] = json.loads(as_text(state.pop(_KEY)))
        version, multiple, converted = int(about["format"]), int(about["multiple"]), bool(about["converted"])
        network = Network(str(about["network"]["name"]), dict(about["network"]["options"]))
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"The tensors are no restorer's, or damaged: {type(error).__name__}: {error}.") from error
    if multiple < 1:
        raise CheckpointError(f"The tensors are damaged: sides would be multiples of {multiple}.")
    if version > _FORMAT:
        raise CheckpointError(f"The file has format {version}; this hairify reads {_FORMAT}. Install a newer hairify.")
    if not network.is_built_in:
        raise NetworkError(f"The file names the network {network.name!r}, and a file does not decide which code runs.")
    base = network.unconverted().build()
    if converted:
        return Restorer(from_tensors(state, base).eval(), network, multiple)
    try:
        base.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"The tensors do not fit {type(base).__name__}: {error}") from error
    return Restorer(base.eval(), network, multiple)


def register_with_spandrel() -> None:
    """Let spandrel open files that `save_for_spandrel` wrote, and so whatever loads networks by it in this process.

    To do so again is no harm. Each image, or each tile where a program makes such, selects weights of its own. Networks
    are in evaluation mode.

    Raises:
        ModuleNotFoundError: spandrel is not installed.
    """
    from spandrel import MAIN_REGISTRY, Architecture, ArchSupport, ImageModelDescriptor, SizeRequirements

    class HAIRArchitecture(Architecture[nn.Module]):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(id="HAIR", detect=lambda state: _KEY in state)

        def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[nn.Module]:
            restorer = from_spandrel_tensors(state_dict)
            return ImageModelDescriptor(
                restorer.model,
                restorer.model.state_dict(),  # which the descriptor loads into the model
                architecture=self,
                purpose="Restoration",
                tags=[restorer.network.name, "all-in-one"],
                supports_half=False,
                supports_bfloat16=False,
                scale=1,
                input_channels=3,
                output_channels=3,
                size_requirements=SizeRequirements(multiple_of=restorer.multiple),
                call_fn=apply,
            )

    # Before all others, some of which recognise a network by a few names that a static restorer has, too.
    others = tuple(one.architecture.id for one in MAIN_REGISTRY)
    MAIN_REGISTRY.add(ArchSupport.from_architecture(HAIRArchitecture(), others), ignore_duplicates=True)
