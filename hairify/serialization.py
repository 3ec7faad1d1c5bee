"""Checkpoints: safetensors with the plan as versioned JSON in its metadata. Nothing is pickled."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from hairify._support.randomness import cpu_generator
from hairify._support.tensor_files import replacing_tensors
from hairify._support.wrappers import without_wrappers
from hairify.conversion import assemble
from hairify.errors import CheckpointError
from hairify.model import HairModel
from hairify.nn._boxes import FACTORS
from hairify.nn._dac import DACSource
from hairify.planning._options import network_of
from hairify.planning._plans import Plan

FORMAT_VERSION = 2  # 1 had no standardisation of GIVs
# One key for all: safetensors writes several in random order, and equal models should give equal files.
_KEY = "hairify"


def save(hair: nn.Module, path: str | os.PathLike[str], *, added_only: bool = False) -> None:
    """Write a HairModel to a safetensors file, with its plan in the metadata.

    The file appears under its name only when it is complete.

    Args:
        hair: the model; one that is compiled, or in DistributedDataParallel and the like, stands for it.
        path: the file to write; one that exists is replaced.
        added_only: leave the base network's own parameters out: what remains is small, and goes with the network
            it was trained on. Buffers of the base are kept: training moves BatchNorm's, also where it is frozen.

    Raises:
        CheckpointError: `hair` is no HairModel, its state holds something other than tensors, there is no such folder,
            or the disk is full.
    """
    kept, about = _packed(hair, added_only)
    target = Path(path)
    if not target.parent.is_dir() or target.is_dir():
        wrong = f"{target} is a folder" if target.is_dir() else f"There is no folder {target.parent}"
        raise CheckpointError(f"{wrong}; `path` is the file to write.")
    with replacing_tensors(target) as file:
        safetensors.torch.save_file(kept, file, {_KEY: about})


def to_tensors(hair: nn.Module) -> dict[str, Tensor]:
    """A HairModel as tensors alone, its plan among them: for files and programs that have room for nothing else.

    Raises:
        CheckpointError: see `save`.
    """
    kept, about = _packed(hair, added_only=False)
    return kept | {_KEY: as_tensor(about)}


def as_tensor(text: str) -> Tensor:
    """Text as bytes, shape (length,), uint8."""
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def as_text(tensor: Tensor) -> str:
    """What `as_tensor` made a tensor of.

    Raises:
        ValueError: it is none of those.
    """
    return bytes(tensor.to("cpu", torch.uint8).tolist()).decode()


def load(path: str | os.PathLike[str], base: nn.Module, dac: DACSource = None) -> HairModel:
    """Read a HairModel that `save` wrote. The network is not traced again and needs no example inputs.

    Args:
        path: the file.
        base: the original, unconverted network, compiled or not; it is left as it is. Its own weights are replaced in
            the result by those of the file, unless that was saved with `added_only`.
        dac: the DAC's module or factory, where the plan records one that is not hairify's own.

    Returns:
        The HairModel, in the mode, dtype and device of `base`; of one on the meta device, in the file's dtype on the
        CPU.

    Raises:
        CheckpointError: the file is missing, damaged, no hairify checkpoint, from a newer hairify, or does not
            fit `base`.
        PlanMismatchError: `base` is not the network that was converted, or `dac` is missing.
        AlreadyConvertedError: `base` is a HairModel.
    """
    return _unpacked(*_read(Path(path)), base, dac, os.fspath(path))


def from_tensors(tensors: Mapping[str, Tensor], base: nn.Module, dac: DACSource = None) -> HairModel:
    """The HairModel of which `to_tensors` made tensors; see `load`.

    Raises:
        CheckpointError: they are none of those, or do not fit `base`.
        PlanMismatchError: see `load`.
        AlreadyConvertedError: see `load`.
    """
    state = dict(tensors)
    try:
        text = as_text(state.pop(_KEY))
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"The tensors are no HairModel's: their {_KEY!r} is missing or damaged.") from error
    return _unpacked(*_checked(text, state, "The tensors"), base, dac, "What the tensors hold")


def _packed(hair: nn.Module, added_only: bool) -> tuple[dict[str, Tensor], str]:
    """Tensors that share no memory, and in JSON what else there is to know."""
    hair = without_wrappers(hair) if isinstance(hair, nn.Module) else hair
    if not isinstance(hair, HairModel):
        raise CheckpointError(f"`save` takes a HairModel; got a {type(hair).__name__}.")
    left_out = _of_the_base(hair) if added_only else set()
    state = {k: v for k, v in hair.state_dict().items() if k not in left_out}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.dtype == torch.complex128 or value.is_quantized:
            kind = f"a {value.dtype} tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise CheckpointError(f"The model's state holds {key!r}, {kind}, which safetensors cannot keep.")
    if sharded := next((key for key, value in state.items() if hasattr(value, "full_tensor")), None):
        raise CheckpointError(
            f"The model is sharded ({sharded!r} is a DTensor). Gather its state with "
            "`torch.distributed.checkpoint.state_dict.get_model_state_dict(hair, options=StateDictOptions("
            "full_state_dict=True))`, load it into a HairModel that is not sharded, and save that."
        )
    kept, aliases = _without_aliases(state)
    about = {"version": FORMAT_VERSION, "plan": hair.plan.to_json(), "added_only": added_only, "aliases": aliases}
    return kept, json.dumps(about, sort_keys=True)


def _unpacked(
    about: dict[str, Any], state: dict[str, Tensor], base: nn.Module, dac: DACSource, source: str
) -> HairModel:
    plan = Plan.from_json(about["plan"])
    if dac is not None:
        plan = plan.with_dac(dac)
    base = network_of(base)
    hair = assemble(base, plan, cpu_generator(None), inplace=False, blank=True)
    if about["version"] < 2:
        state = {key: t.unsqueeze(0) if _is_shared(hair, key) else t for key, t in state.items()}
        state |= hair.standardization.state_dict(prefix="standardization.")  # fresh: GIVs pass as they are
    expected = set(hair.state_dict())
    if about["added_only"]:
        expected -= _of_the_base(hair)
    if expected != set(state):
        missing, surplus = sorted(expected - set(state)), sorted(set(state) - expected)
        raise CheckpointError(
            f"{source} does not fit the model ({type(base).__name__}): missing {_first(missing)}, not expected "
            f"{_first(surplus)}."
        )
    try:
        hair.load_state_dict(state, strict=False, assign=any(t.is_meta for t in _tensors(hair).values()))
    except RuntimeError as error:  # shapes
        raise CheckpointError(f"{source} does not fit the model ({type(base).__name__}): {error}") from error
    if left := sorted(name for name, t in _tensors(hair).items() if t.is_meta):
        raise CheckpointError(
            f"The model ({type(base).__name__}) is on the meta device, and {source} has no values for {_first(left)}. "
            "Give a `base` that has them."
        )
    return hair


def _tensors(hair: HairModel) -> dict[str, Tensor]:
    """All parameters and buffers, also those that are not saved."""
    return {**dict(hair.named_parameters()), **dict(hair.named_buffers())}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the file says about itself, and its tensors."""
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            state = {key: file.get_tensor(key) for key in file.keys()} if text else {}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(_unreadable(path, error)) from error
    if text is None:
        raise CheckpointError(
            f"{path} is a safetensors file, but no hairify checkpoint: load it into your network before `hairify`."
        )
    return _checked(text, state, str(path))


def _checked(text: str, state: dict[str, Tensor], source: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a checkpoint says about itself, and its tensors, those that are one with others among them."""
    try:
        about = json.loads(text)
    except ValueError as error:
        raise CheckpointError(_unreadable(source, error)) from error
    if not _well_formed(about, state):
        raise CheckpointError(f"{source} cannot be read as a hairify checkpoint; what it says of itself is damaged.")
    if about["version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{source} has version {about['version']}; this hairify reads up to {FORMAT_VERSION}. Install a newer "
            "hairify."
        )
    return about, state | {alias: state[name] for alias, name in about["aliases"].items()}


def _unreadable(source: object, error: Exception) -> str:
    return f"{source} cannot be read as a hairify checkpoint; it is damaged or of another kind ({error})."


def _well_formed(about: Any, state: dict[str, Tensor]) -> bool:
    kinds = {"version": int, "plan": str, "added_only": bool, "aliases": dict}
    return (
        isinstance(about, dict)
        and all(isinstance(about.get(key), kind) for key, kind in kinds.items())
        and all(name in state for name in about["aliases"].values())
    )


def _is_shared(hair: HairModel, key: str) -> bool:
    """Whether a key is that of factors, or changes of a bias, that all blocks of a low-rank box share."""
    part, _, rest = key.partition(".")
    level = hair.plan.levels[int(rest.partition(".")[0])] if part == "boxes" else None
    return level is not None and level.shared and key.rpartition(".")[2] in FACTORS


def _of_the_base(hair: HairModel) -> set[str]:
    """Keys of the base network's own parameters."""
    return {f"base.{name}" for name, _ in hair.base.named_parameters(remove_duplicate=False)}


def _without_aliases(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors in contiguous memory of their own, and {name: name of the tensor with which it is one}."""
    groups: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for key, t in state.items():
        groups[t.device, t.data_ptr() or key, t.shape, t.stride(), t.dtype].append(key)
    aliases = {other: names[0] for names in groups.values() for other in names[1:]}
    storages: set[int] = set()
    kept = {}
    for key, t in state.items():
        if key not in aliases:
            shared = t.untyped_storage().data_ptr() in storages  # a view into a tensor that is saved already
            storages.add(t.untyped_storage().data_ptr())
            kept[key] = t.clone(memory_format=torch.contiguous_format) if shared else t.contiguous()
    return kept, aliases


def _first(names: list[str], most: int = 3) -> str:
    return "nothing" if not names else f"{len(names)} ({', '.join(names[:most])}{', ...' if len(names) > most else ''})"
