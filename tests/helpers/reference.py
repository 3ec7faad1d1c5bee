"""Outputs of the authors' published networks on fixed images with fixed parameters, in `data/`.

Parameters and images come from integer arithmetic (splitmix64), so they are the same on every platform.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hairify import HairModel

DATA = Path(__file__).parents[1] / "stored"

# A Res-HAIR that is quickly made.
SMALL = {"dim": 8, "num_blocks": (2, 2, 2, 2), "num_refinement_blocks": 2, "norm": "BiasFree"}


def record(name: str) -> dict[str, Any]:
    """Configuration, seed, gain, input size, and names and shapes of the parameters."""
    return json.loads((DATA / f"{name}.json").read_text())


def published_state(name: str) -> dict[str, Tensor]:
    """A state_dict with the published names and shapes, float64, counters int64."""
    about = record(name)
    return {
        key: torch.from_numpy(_values(key, shape, index, about)).reshape(shape)
        for index, (key, shape) in enumerate(about["state"])
    }


def largest_error(model: nn.Module, name: str) -> float:
    """The largest absolute difference from the recorded output, in float64."""
    about = record(name)
    expected = torch.from_numpy(np.load(DATA / f"{name}.npz")["output"])
    with torch.no_grad():
        images = _images(*about["input"], about["seed"])
        got = model.double().eval()(*[images] * (2 if name == "airnet" else 1))
    return (got - expected).abs().max().item()


def as_published(hair: HairModel) -> dict[str, Tensor]:
    """The authors' layout of a HairModel's parameters: an independent inverse of the importer."""
    order = ("attn.qkv", "attn.qkv_dwconv", "attn.project_out", "ffn.project_in", "ffn.dwconv", "ffn.project_out")
    state: dict[str, Tensor] = {}
    levels = [level.name for level in hair.plan.levels]
    for key, value in hair.base.state_dict().items():
        level = key.partition(".")[0]
        state[key.replace(f"{level}.", f"{level}.blocks.", 1) if level in levels else key] = value
    for i, level in enumerate(levels):
        box = hair.boxes[i].state_dict()
        state[f"{level}.kernel_box"] = torch.cat([box[f"{name}.weight"].flatten(1) for name in order], 1)
        for j, layer in enumerate(hair.hsn[i].layers):
            for name in ("weight", "bias"):
                for m, value in enumerate(getattr(layer, name)):
                    state[f"{level}.extracts.{m}.net.{2 * j}.{name}"] = value.detach()
    return state | {f"feature.{key}": value for key, value in hair.dac.state_dict().items()}


def _values(key: str, shape: list[int], index: int, about: dict[str, Any]) -> np.ndarray:
    numel, leaf = math.prod(shape), key.rpartition(".")[2]
    noise = _noise(numel, index, about["seed"])
    if leaf in ("num_batches_tracked", "queue_ptr"):
        return np.zeros(numel, np.int64)
    if leaf == "running_var":
        return 1 + 0.25 * noise * noise
    if leaf == "temperature" or (leaf == "weight" and len(shape) == 1):
        return 1 + 0.1 * noise
    if leaf in ("running_mean", "bias"):
        return 0.05 * noise
    if leaf == "kernel_box":
        return 0.15 * noise
    return noise * np.sqrt(about["gain"] / (numel / shape[0]))


def _noise(numel: int, index: int, seed: int) -> np.ndarray:
    """Uniform values of zero mean and unit variance (splitmix64)."""
    with np.errstate(over="ignore"):
        z = np.arange(numel, dtype=np.uint64) + np.uint64(index) * np.uint64(1 << 32)
        z += np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)).astype(np.float64) / 2**53 - 0.5) * np.sqrt(12.0)


def _images(batch: int, channels: int, height: int, width: int, seed: int) -> Tensor:
    c, y, x = np.meshgrid(np.arange(channels), np.arange(height), np.arange(width), indexing="ij")
    waves = [
        0.5 + 0.25 * np.sin(0.21 * x + 0.5 * c + seed + j) + 0.25 * np.cos(0.17 * y - 0.3 * c + 2 * seed + j)
        for j in range(batch)
    ]
    return torch.from_numpy(np.stack(waves))
