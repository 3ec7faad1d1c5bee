"""How a network is trained. The defaults are the paper's recipe (section 4, implementation details)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from typing_extensions import Doc

from hairify.errors import OptionError

MixedPrecision = Literal["no", "fp16", "bf16"]


@dataclass(frozen=True)
class TrainingSettings:
    """The recipe, and how a run is kept and watched.

    Whatever the number of processes and micro-batches, a step learns from `batch_size` images.
    """

    epochs: Annotated[int, Doc("epochs at the learning rate")] = 150
    final_epochs: Annotated[int, Doc("epochs at the final learning rate, after these")] = 10
    steps: Annotated[
        int | None, Doc("number of steps, in place of epochs; the learning rate falls at the same share of them")
    ] = None
    learning_rate: Annotated[float, Doc("of AdamW (betas 0.9 and 0.999)")] = 2e-4
    final_learning_rate: Annotated[float, Doc("of the final epochs")] = 2e-5
    warm_up: Annotated[int, Doc("steps over which the learning rate rises to its first value")] = 0
    hair_rate: Annotated[float, Doc("learning rate of DAC and HSNs, relative to that of all else")] = 1.0
    weight_decay: Annotated[
        float, Doc("of AdamW, which the paper leaves open; the differences between rows of low-rank boxes get none")
    ] = 1e-4
    batch_size: Annotated[int, Doc("images per step, over all processes and micro-batches")] = 32
    accumulation: Annotated[int, Doc("micro-batches per step, run one after the other to save memory")] = 1
    mixed_precision: Annotated[MixedPrecision, Doc("number type of the network's computations")] = "no"
    clip_norm: Annotated[float | None, Doc("largest norm of the gradient; a longer one is shortened to it")] = None
    ema_decay: Annotated[
        float, Doc("of the exponential moving average of the weights, which is the result; 0: no average")
    ] = 0.999
    calibration: Annotated[
        int, Doc("training patches on which a converted network is calibrated before its first step; 0: it is not")
    ] = 256
    classify: Annotated[
        float | None,
        Doc(
            "weight of a second loss: the cross-entropy of telling the degradation from the GIV; 0: none; by default "
            "0.1 beside hairify's own losses where the DAC is that of moments and there is something to tell apart"
        ),
    ] = None
    freeze_base: Annotated[bool, Doc("train only what conversion added: DAC, HSNs and Weight Boxes")] = False
    checkpoint_blocks: Annotated[bool, Doc("save memory: make the blocks' activations again in the backward pass")] = (
        False
    )
    save_every: Annotated[int, Doc("steps between checkpoints; 0: only at the end")] = 500
    validate_every: Annotated[int, Doc("steps between validations; 0: none")] = 5000
    keep_checkpoints: Annotated[int, Doc("how many of the newest checkpoints are kept")] = 2
    workers: Annotated[int, Doc("processes that load images, for each process that trains")] = 2
    seed: Annotated[int, Doc("of weights, patches and degradations")] = 0
    fsdp: Annotated[bool, Doc("shard weights and optimizer over the GPUs (FSDP2)")] = False
    cpu: Annotated[bool, Doc("train on the CPU even where there is a GPU")] = False
    log_with: Annotated[
        tuple[str, ...], Doc("trackers that get losses and scores: tensorboard, wandb, mlflow, ..., or none")
    ] = ("tensorboard",)
    best_by: Annotated[Literal["psnr", "ssim"], Doc("mean score on the held-out images by which best/ is chosen")] = (
        "psnr"
    )
    freeze: Annotated[
        tuple[str, ...],
        Doc("globs of modules and parameters that stay as they are, such as boxes, hsn.1 or base.encoder*"),
    ] = ()

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            OptionError: one is not accepted.
        """
        whole = ("epochs", "final_epochs", "steps", "save_every", "validate_every", "workers", "seed", "warm_up")
        for name in (*whole, "calibration"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise OptionError(f"`{name}` is {value}; accepted are 0, 1, 2, ....")
        for name in ("batch_size", "accumulation", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise OptionError(f"`{name}` is {getattr(self, name)}; accepted are 1, 2, 3, ....")
        if self.calibration == 1:
            raise OptionError(
                "`calibration` is 1; accepted are 2 or more images, from which variances can be found, or 0."
            )
        for name in ("learning_rate", "final_learning_rate", "clip_norm", "hair_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise OptionError(f"`{name}` is {value}; accepted are positive numbers.")
        for name in ("weight_decay", "classify"):
            if (value := getattr(self, name)) is not None and not 0 <= value < math.inf:
                raise OptionError(f"`{name}` is {value}; accepted are 0 and positive numbers.")
        if not 0 <= self.ema_decay < 1:
            raise OptionError(f"`ema_decay` is {self.ema_decay}; accepted are numbers from 0 (no average) to below 1.")
        if self.mixed_precision not in get_args(MixedPrecision):
            raise OptionError(
                f"`mixed_precision` is {self.mixed_precision!r}; accepted are {', '.join(get_args(MixedPrecision))}."
            )
        if self.steps is None and not self.epochs + self.final_epochs:
            raise OptionError("`epochs` and `final_epochs` are both 0; give one of them, or `steps`.")
        self.images_at_once(processes=1)

    def total_steps(self, epoch: int) -> int:
        """The steps of the whole run.

        Args:
            epoch: the number of samples in an epoch.
        """
        if self.steps is not None:
            return self.steps
        return (self.epochs + self.final_epochs) * math.ceil(epoch / self.batch_size)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 1, of so many."""
        epochs = self.epochs + self.final_epochs
        at_first = steps * self.epochs // epochs if epochs else steps
        rate = self.learning_rate if step <= at_first else self.final_learning_rate
        return rate * min(1.0, step / self.warm_up) if self.warm_up else rate

    def images_at_once(self, processes: int) -> int:
        """The images of one micro-batch of one process.

        Raises:
            OptionError: `batch_size` cannot be divided so.
        """
        parts = processes * self.accumulation
        if self.batch_size % parts:
            nearest = max(round(self.batch_size / parts), 1) * parts
            raise OptionError(
                f"`batch_size` is {self.batch_size}, which {processes} process(es) with {self.accumulation} "
                f"micro-batch(es) each cannot share evenly; accepted are multiples of {parts}, such as {nearest}."
            )
        return self.batch_size // parts


def due(step: int, every: int) -> bool:
    """Whether what is done every so many steps is done after this one; 0: never."""
    return every > 0 and step % every == 0
