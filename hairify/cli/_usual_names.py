"""Options by the names that other tools give them, and what is said of one that does not exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from typer.core import TyperCommand

USUAL: Mapping[str, str] = {
    "lr": "learning-rate",
    "min-lr": "final-learning-rate",
    "lr-final": "final-learning-rate",
    "wd": "weight-decay",
    "warmup": "warm-up",
    "warmup-steps": "warm-up",
    "bs": "batch-size",
    "batch": "batch-size",
    "per-device-train-batch-size": "batch-size",
    "gradient-accumulation-steps": "accumulation",
    "accumulate-grad-batches": "accumulation",
    "grad-clip": "clip-norm",
    "max-grad-norm": "clip-norm",
    "gradient-checkpointing": "checkpoint-blocks",
    "amp": "mixed-precision",
    "fp16": "mixed-precision",
    "bf16": "mixed-precision",
    "precision": "mixed-precision",
    "ema": "ema-decay",
    "max-steps": "steps",
    "iterations": "steps",
    "iters": "steps",
    "num-epochs": "epochs",
    "max-epochs": "epochs",
    "crop-size": "patch-size",
    "patch": "patch-size",
    "num-workers": "workers",
    "save-steps": "save-every",
    "eval-steps": "validate-every",
    "eval-every": "validate-every",
    "val-every": "validate-every",
    "logger": "log-with",
    "report-to": "log-with",
    "tensorboard": "log-with tensorboard",
    "no-tensorboard": "log-with none",
    "wandb": "log-with wandb",
    "mlflow": "log-with mlflow",
    "init-from": "from",
    "finetune": "from",
    "pretrained": "weights",
    "checkpoint": "weights",
    "ckpt": "weights",
    "arch": "network",
    "dataset": "data",
    "data-dir": "data",
    "train-data": "data",
    "val-data": "test-data",
    "output-dir": "output",
    "out": "output",
    "save-dir": "output",
    "model-path": "model",
    "tile-size": "tile",
}
"""By what stands elsewhere, the option here."""

LAUNCHED = ("gpus", "num-gpus", "gpu-ids", "devices", "nproc-per-node", "num-processes", "nodes")
"""What is not for a command to say, but for what launches it."""


class Command(TyperCommand):
    """A command that answers an unknown option with the one that is meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse words; `args` is emptied."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            name = getattr(error, "option_name", None)
            if not isinstance(name, str) or not hasattr(error, "possibilities"):
                raise
            known = [flag for parameter in self.params for flag in (*parameter.opts, *parameter.secondary_opts)]
            return ctx.fail(f"No such option: {name}.{meant(name, known)}")


def meant(name: str, known: Iterable[str]) -> str:
    """What an option that does not exist may mean, as a sentence after a blank; nothing where nothing is near.

    Args:
        name: with its dashes, such as "--lr".
        known: the command's options.
    """
    word = name.lstrip("-").replace("_", "-").lower()
    flags = [flag for flag in known if flag.startswith("--")]
    if word in LAUNCHED:
        return " What launches hairify says how many GPUs: accelerate launch --num_processes 8 -m hairify ..."
    usual = f"--{USUAL[word]}" if word in USUAL else None
    if usual is not None and usual.split()[0] in flags:
        return f" Did you mean {usual}?"
    near = get_close_matches(f"--{word}", flags, n=3, cutoff=0.7)
    return f" Did you mean {' or '.join(near)}?" if near else ""
