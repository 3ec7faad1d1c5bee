"""How a network is trained. The defaults are the paper's recipe (section 4, implementation details).

What brings PyTorch is imported where it is used: the help of the command line reads the settings, and is quick.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from typing_extensions import Doc

from hairify._support.nearest import named_nearest
from hairify.errors import OptionError
from hairify.training._progression import Batches, Stage, parse_stage, steps_for
from hairify.training._schedule import Schedule, ScheduleName

MixedPrecision = Literal["no", "fp16", "bf16"]

PARTS = ("base", "dac", "hsn", "boxes")
"""What a converted network consists of, and may have learning rates of its own."""


@dataclass(frozen=True)
class StartSettings:
    """What a second stage starts from."""

    start_from: Annotated[
        str | None,
        Doc(
            "a run, a restorer's folder or owner/name on the Hub, or a checkpoint: network, plan and weights come from "
            "there"
        ),
    ] = None


@dataclass(frozen=True)
class TrainingSettings:
    """The recipe, and how a run is kept and watched.

    Whatever the number of processes and micro-batches, a step learns from `batch_size` images.
    """

    epochs: Annotated[int, Doc("epochs at the learning rate, or until it has fallen along its cosine")] = 150
    final_epochs: Annotated[int, Doc("epochs at the final learning rate, after these")] = 10
    steps: Annotated[
        int | None, Doc("number of steps, in place of epochs; the learning rate changes at the same shares of them")
    ] = None
    schedule: Annotated[
        ScheduleName, Doc("the learning rate falls to the final one at once, or along half a cosine")
    ] = "step"
    learning_rate: Annotated[float, Doc("of AdamW (betas 0.9 and 0.999)")] = 2e-4
    final_learning_rate: Annotated[float, Doc("of the final epochs, and at the cosine's end")] = 2e-5
    warm_up: Annotated[int, Doc("steps over which the learning rate rises to its first value")] = 0
    warm_up_epochs: Annotated[int, Doc("the same in epochs")] = 0
    hold_epochs: Annotated[int, Doc("first epochs, before the cosine begins; the warm-up is among them")] = 0
    cosine_epochs: Annotated[
        int | None, Doc("where the cosine ends, if not with the epochs; a run that is shorter ends on its way down")
    ] = None
    rates: Annotated[
        Mapping[str, float],
        Doc("learning rate of base, dac, hsn or boxes, relative to that of all else; such as hsn=3"),
    ] = field(default_factory=dict)
    weight_decay: Annotated[
        float, Doc("of AdamW, which the paper leaves open; the differences between rows of low-rank boxes get none")
    ] = 1e-4
    batch_size: Annotated[int, Doc("images per step, over all processes and micro-batches")] = 32
    progression: Annotated[
        tuple[str, ...],
        Doc(
            "patches that grow, in place of patch and batch size: 128x64@92 are batches of 64 patches of 128² pixels "
            "for 92 parts of the steps"
        ),
    ] = ()
    accumulation: Annotated[int, Doc("micro-batches per step, run one after the other to save memory")] = 1
    loss: Annotated[
        str | None,
        Doc(
            "l1, charbonnier, fft, ms-ssim, or a sum such as l1+0.1*fft; or package.module:function for your own, "
            "(restored, clean) -> loss; by default l1, and AirNet's own for AirNet"
        ),
    ] = None
    uncertainty: Annotated[
        bool, Doc("learn how to weigh the degradations' losses: each by the uncertainty that is learned for it")
    ] = False
    mixed_precision: Annotated[MixedPrecision, Doc("number type of the network's computations")] = "no"
    tf32: Annotated[bool, Doc("let CUDA round factors of float32 products to TF32, which is faster")] = False
    channels_last: Annotated[bool, Doc("keep channels together in memory, which convolutions on GPUs may prefer")] = (
        False
    )
    compile: Annotated[bool, Doc("compile the network (torch.compile): slow to start, then faster")] = False
    tune: Annotated[
        bool,
        Doc(
            "measure at the start by which kernels this device is quickest at layers with weights of each image, and "
            "keep them in tuning.json"
        ),
    ] = False
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
        self._check_numbers()
        self._check_schedule()
        for part, rate in self.rates.items():
            if part not in PARTS:
                raise OptionError(f"`rates` has {part!r}; {named_nearest(part, PARTS)}")
            if not 0 < rate < math.inf:
                raise OptionError(f"`rates` has {rate} for {part}; accepted are positive numbers.")
        if self.mixed_precision not in get_args(MixedPrecision):
            raise OptionError(
                f"`mixed_precision` is {self.mixed_precision!r}; accepted are {', '.join(get_args(MixedPrecision))}."
            )
        if self.loss is not None:
            from hairify.training._image_losses import check_loss_name

            check_loss_name(self.loss)
        if self.channels_last and self.fsdp:
            raise OptionError("`channels_last` is on, but FSDP shards tensors whose rows are contiguous. Leave it off.")
        if self.tune and self.compile:
            raise OptionError(
                "`tune` and `compile` are both on, but compilers choose without measuring. Leave one off."
            )
        if self.tune and self.fsdp:
            raise OptionError(
                "`tune` is on, but layers whose weights FSDP shards go by the rules. Leave it off, or `fsdp`."
            )
        for stage in self.stages():
            self.images_at_once(processes=1, batch_size=stage.batch_size)

    def _check_numbers(self) -> None:
        whole = ("epochs", "final_epochs", "steps", "save_every", "validate_every", "workers", "seed", "warm_up")
        for name in (*whole, "warm_up_epochs", "hold_epochs", "cosine_epochs", "calibration"):
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
        may_be_0 = ("final_learning_rate",) if self.schedule == "cosine" else ()
        for name in sorted({"learning_rate", "final_learning_rate", "clip_norm"}.difference(may_be_0)):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise OptionError(f"`{name}` is {value}; accepted are positive numbers.")
        for name in ("weight_decay", "classify", *may_be_0):
            if (value := getattr(self, name)) is not None and not 0 <= value < math.inf:
                raise OptionError(f"`{name}` is {value}; accepted are 0 and positive numbers.")
        if not 0 <= self.ema_decay < 1:
            raise OptionError(f"`ema_decay` is {self.ema_decay}; accepted are numbers from 0 (no average) to below 1.")

    def _check_schedule(self) -> None:
        if self.schedule not in get_args(ScheduleName):
            raise OptionError(f"`schedule` is {self.schedule!r}; accepted are {', '.join(get_args(ScheduleName))}.")
        epochs = self.epochs + self.final_epochs
        if self.steps is None and not epochs:
            raise OptionError("`epochs` and `final_epochs` are both 0; give one of them, or `steps`.")
        if self.warm_up and self.warm_up_epochs:
            raise OptionError(
                f"`warm_up` is {self.warm_up} steps and `warm_up_epochs` is {self.warm_up_epochs}; give one of them, "
                "and 0 for the other."
            )
        for name in ("warm_up_epochs", "hold_epochs", "cosine_epochs"):
            if getattr(self, name) and not epochs:
                raise OptionError(f"`{name}` needs `epochs`, of whose steps it is a share; they are 0.")
        if self.schedule != "cosine" and (self.hold_epochs or self.cosine_epochs is not None):
            name = "hold_epochs" if self.hold_epochs else "cosine_epochs"
            raise OptionError(f"`{name}` is of the `schedule` 'cosine', and that is {self.schedule!r}.")
        end = self.epochs if self.cosine_epochs is None else self.cosine_epochs
        begin = max(self.hold_epochs, self.warm_up_epochs)
        if self.schedule == "cosine" and epochs and begin >= end:
            raise OptionError(
                f"The cosine would begin after {begin} epochs and end after {end}; accepted are more `epochs` (or "
                "`cosine_epochs`) than `warm_up_epochs` and `hold_epochs`."
            )

    def stages(self) -> tuple[Stage, ...]:
        """The parts of a run that take batches of one kind: one, but for a `progression`.

        Raises:
            OptionError: `progression` is not accepted.
        """
        return tuple(map(parse_stage, self.progression)) or (Stage(None, self.batch_size, 1.0),)

    def batches(self, steps: int) -> Batches:
        """Which samples each of so many steps takes."""
        return Batches(self.stages(), steps)

    def total_steps(self, epoch: int) -> int:
        """The steps of the whole run.

        Args:
            epoch: the number of samples in an epoch.
        """
        if self.steps is not None:
            return self.steps
        epochs = self.epochs + self.final_epochs
        if self.progression:
            return steps_for(self.stages(), epochs * epoch)
        return epochs * math.ceil(epoch / self.batch_size)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 1, of so many."""
        return self.course(steps).rate(step)

    def course(self, steps: int) -> Schedule:
        """The learning rate of all of so many steps."""
        epochs = self.epochs + self.final_epochs
        end = self.epochs if self.cosine_epochs is None else self.cosine_epochs
        return Schedule(
            name=self.schedule,
            first=self.learning_rate,
            final=self.final_learning_rate,
            warm_up=self.warm_up or (steps * self.warm_up_epochs // epochs if epochs else 0),
            falling_from=steps * self.hold_epochs // epochs if epochs else 0,
            falling_to=steps * end // epochs if epochs else steps,
        )

    def rate_in_words(self) -> str:
        """The course of the learning rate, for a reader."""
        falls = "then" if self.schedule == "step" else "along a cosine to"
        return f"{self.learning_rate:g}, {falls} {self.final_learning_rate:g}"

    def batch_in_words(self) -> str:
        """What a step takes, for a reader."""
        if not self.progression:
            return f"{self.batch_size} patches"
        stages = self.stages()
        grown = ", ".join(f"{stage.batch_size} of {stage.patch_size}²" for stage in stages)
        return f"patches that grow: {grown}"

    def images_at_once(self, processes: int, batch_size: int | None = None) -> int:
        """The images of one micro-batch of one process.

        Args:
            processes: that train together.
            batch_size: of the step; None for that of the settings.

        Raises:
            OptionError: it cannot be divided so.
        """
        name = "batch_size" if batch_size is None or not self.progression else "progression"
        size = self.batch_size if batch_size is None else batch_size
        parts = processes * self.accumulation
        if size % parts:
            nearest = max(round(size / parts), 1) * parts
            what = f"is {size}" if name == "batch_size" else f"has batches of {size}"
            raise OptionError(
                f"`{name}` {what}, which {processes} process(es) with {self.accumulation} "
                f"micro-batch(es) each cannot share evenly; accepted are multiples of {parts}, such as {nearest}."
            )
        return size // parts


def due(step: int, every: int) -> bool:
    """Whether what is done every so many steps is done after this one; 0: never."""
    return every > 0 and step % every == 0
