"""The state_dict in a checkpoint: under whatever it lies, behind whatever its names stand, and what lies beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
import torch
from torch import Tensor

from hairify.errors import CheckpointError

State: TypeAlias = Mapping[str, Tensor]

_NAMES = (
    *("state_dict", "params", "model_state_dict", "model_state", "model", "module", "network", "net", "weights"),
    *("generator", "netG", "net_g", "G", "generator_state_dict", "netG_state_dict"),
)
"""Under which training code puts a state_dict; of several, the first."""

_PREFIXES = frozenset(
    (
        *("module", "model", "net", "network", "generator", "netG", "net_g", "G", "backbone", "restorer"),
        *("ema", "ema_model", "model_ema", "online_model", "generator_ema", "netG_ema", "net_g_ema", "_forward_module"),
    )
)
"""What wrappers and training code put before names: DataParallel, Lightning, mmagic, KAIR, averages, ..."""

_WITHIN = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What `torch.compile` and others put anywhere into names."""

_BESIDE = frozenset({"n_averaged", "total_ops", "total_params"})
"""Counters among the tensors, of AveragedModel and of thop."""

_HARMLESS = (
    *("argparse.Namespace", "numpy.dtype", "numpy.ndarray"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)
"""What lies beside weights most often, for files older than PyTorch 1.6: of others, it can be listed."""

_DEEPEST = 3  # state_dicts lie within so many dicts


class _StandIn:
    """Takes the place of whatever a file holds beside tensors and plain values, so that no code of it is run."""

    is_module = False

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.is_module = isinstance(state, Mapping) and "_modules" in state


def opened(path: Path) -> Any:
    """What a checkpoint file holds; objects of other kinds than tensors and plain values are stood in for.

    Raises:
        CheckpointError: it cannot be read, or not without running code.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals([(_StandIn, name) for name in _foreign(path)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both raise whatever a damaged file makes of it
        raise CheckpointError(f"{path} cannot be read as a checkpoint{_reason(path, error)}") from error


def _foreign(path: Path) -> list[str]:
    """The classes and functions that a file names, but for those that PyTorch takes for safe and those of Python."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # no archive
        return list(_HARMLESS)
    return [name for name in named if name.partition(".")[0] not in ("builtins", "__builtin__")]


def _reason(path: Path, error: Exception) -> str:
    said = " ".join(str(error).split())
    if "TorchScript" in said:
        return (
            ": it is a TorchScript program. Make a file of its weights: "
            f"torch.save(torch.jit.load({os.fspath(path)!r}).state_dict(), 'weights.pth')."
        )
    found = re.search(r"GLOBAL (\S+)|Can only (?:SETITEM|APPEND|EXTEND|append|extend)", said)
    if found:
        what = found[1] or "lists or dicts of a kind of their own"
        lie = ".state_dict()" if what.startswith("torch.nn.modules.") else "['state_dict'], or wherever they lie"
        return (
            f" without running code: it holds {what}. If you trust whoever made it, make a file of the weights alone, "
            f"torch.save(weights, 'weights.pth'): they are torch.load({os.fspath(path)!r}, weights_only=False){lie}."
        )
    if isinstance(error, OSError) or path.suffix.lower() == ".safetensors":
        return f": {said[:300]}"
    exactly = said.rpartition("WeightsUnpickler error: ")[2]
    exactly = f"{type(error).__name__}: {exactly[:100]}" if exactly else type(error).__name__
    return f": it is empty, cut off, or nothing that torch.save made ({exactly})."


def state_in(checkpoint: Any, own: Collection[str]) -> State:
    """The state_dict that fits best: averaged weights before others, then by name.

    Args:
        checkpoint: what a file holds.
        own: names of the model's tensors; empty if they are not known.

    Raises:
        CheckpointError: there is none, or it is not clear which is meant.
    """
    dicts = [*_states(checkpoint)]
    fitting = {path: state for path, state, _ in dicts if _prefixes(state, own)}
    found = fitting or {path: state for path, state, is_whole in dicts if is_whole}
    if not found:
        raise CheckpointError(_nothing(checkpoint))
    ranks = {path: _rank(path) for path in found}
    first = [path for path in found if ranks[path] == min(ranks.values())]
    if len(first) > 1:
        where = ", ".join(repr("/".join(path)) for path in first)
        raise CheckpointError(f"The checkpoint holds several state_dicts, under {where}. Give the one that is meant.")
    return found[first[0]]


def _states(checkpoint: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], State, bool]]:
    """The tensors of all dicts, where these lie, and whether there is nothing else in them."""
    if not isinstance(checkpoint, Mapping) or not all(isinstance(key, str) for key in checkpoint):
        return
    tensors = {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}
    is_whole = len(tensors) == len(checkpoint)
    if tensors:
        yield path, tensors, is_whole
    if not is_whole and len(path) < _DEEPEST:
        for key, value in checkpoint.items():
            yield from _states(value, (*path, key))


def _rank(path: tuple[str, ...]) -> int:
    if any(_is_averaged(name) for name in path):
        return -1
    return max((_NAMES.index(name) if name in _NAMES else len(_NAMES) for name in path), default=-1)


def _is_averaged(name: str) -> bool:
    return not {"ema", "swa", "averaged"}.isdisjoint(re.split(r"[^a-z]", name.lower()))


def _nothing(checkpoint: Any) -> str:
    values = {"": checkpoint} if not isinstance(checkpoint, Mapping) else checkpoint
    whole = [key for key, value in values.items() if isinstance(value, _StandIn) and value.is_module]
    if whole:
        place = f"[{whole[0]!r}]" if whole[0] else ""
        return (
            "The checkpoint holds no state_dict but a whole module, which is not loaded: that would run its code. If "
            "you trust whoever made it, make a file of its weights: torch.save(torch.load(PATH, weights_only=False)"
            f"{place}.state_dict(), 'weights.pth')."
        )
    names = ", ".join(repr(name) for name in ("params_ema", *_NAMES))
    return (
        f"The checkpoint holds no state_dict: a dict of tensors, or a dict with one under {names}. Make a file of it "
        "alone: torch.save(network.state_dict(), 'weights.pth')."
    )


def renamed(state: State, own: Collection[str]) -> dict[str, Tensor]:
    """A state_dict by the names of the model, without what wrappers and counters add.

    Args:
        state: as the checkpoint has it.
        own: names of the model's tensors; where one of them has what is dropped elsewhere, it keeps it.

    Raises:
        CheckpointError: it is not clear which of two tensors is meant.
    """
    plain = {_WITHIN.sub("", name): name for name in own}  # the model may be compiled, too
    kept = _kept(state, plain)
    prefixes = _prefixes(kept, plain)
    averaged = [prefix for prefix in prefixes if any(_is_averaged(part) for part in prefix.split("."))]
    chosen = averaged if len(averaged) == 1 else prefixes
    if len(chosen) > 1:
        raise CheckpointError(
            f"The checkpoint holds the network several times, behind {', '.join(map(repr, chosen))}. Give the "
            "state_dict with one of them."
        )
    if chosen and chosen[0]:  # what stands behind other prefixes is of other networks, such as a discriminator
        named = {key.removeprefix(chosen[0]): value for key, value in kept.items() if key.startswith(chosen[0])}
    else:
        named = {_without_prefixes(key, plain): value for key, value in kept.items()}
        if len(named) < len(kept):
            raise CheckpointError(
                "The checkpoint holds some tensors twice, with a prefix (such as `module.` or `net.`) and without: it "
                "is not clear which are meant. Give the state_dict with one of them."
            )
    return {plain.get(key, key): value for key, value in named.items()}


def _kept(state: State, own: Collection[str]) -> dict[str, Tensor]:
    """Without counters, and without what compilers put into names."""
    counted = [key for key in state if key in own or key.rpartition(".")[2] not in _BESIDE]
    kept = {key if key in own else _WITHIN.sub("", key): state[key] for key in counted}
    if len(kept) < len(counted):
        raise CheckpointError(
            "The checkpoint holds some tensors twice, with `_orig_mod.` in their names and without: it is not clear "
            "which are meant. Give the state_dict with one of them."
        )
    return kept


def _prefixes(state: State, own: Collection[str]) -> list[str]:
    """The known prefixes, "" for none, behind which a state_dict has all names of the model."""
    if not own:
        return []
    plain = {_WITHIN.sub("", name) for name in own}
    names = {_WITHIN.sub("", key) for key in state}
    one = max(plain, key=len)
    candidates = [key.removesuffix(one) for key in names if key.endswith(one)]
    return sorted(p for p in candidates if _is_known(p) and all(p + name in names for name in plain))


def _is_known(prefix: str) -> bool:
    return not prefix or (prefix.endswith(".") and all(part in _PREFIXES for part in prefix[:-1].split(".")))


def _without_prefixes(key: str, own: Collection[str]) -> str:
    while key not in own and key.partition(".")[0] in _PREFIXES and "." in key:
        key = key.partition(".")[2]
    return key
