"""Training: the paper's recipe for any network, on one process or many; exact to resume."""

from typing import TYPE_CHECKING

from hairify._support.on_demand import on_demand

if TYPE_CHECKING:
    from hairify.training._checkpoints import is_begun
    from hairify.training._logs import StepReport
    from hairify.training._losses import Loss, airnet_loss, l1_loss, loss_for
    from hairify.training._settings import StartSettings, TrainingSettings
    from hairify.training._sharding import processes
    from hairify.training._starting import Start, started_from
    from hairify.training._trainer import TrainedRun, train
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "_checkpoints": ("is_begun",),
            "_logs": ("StepReport",),
            "_losses": ("Loss", "airnet_loss", "l1_loss", "loss_for"),
            "_settings": ("StartSettings", "TrainingSettings"),
            "_sharding": ("processes",),
            "_starting": ("Start", "started_from"),
            "_trainer": ("TrainedRun", "train"),
        },
    )

__all__ = [
    "Loss",
    "Start",
    "StartSettings",
    "StepReport",
    "TrainedRun",
    "TrainingSettings",
    "airnet_loss",
    "is_begun",
    "l1_loss",
    "loss_for",
    "processes",
    "started_from",
    "train",
]
