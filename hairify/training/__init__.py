"""Training: the paper's recipe for any network, on one process or many; exact to resume."""

from hairify.training.checkpoints import refuse_other_runs
from hairify.training.logs import StepReport
from hairify.training.losses import Loss, airnet_loss, l1_loss, loss_for
from hairify.training.settings import TrainingSettings
from hairify.training.trainer import TrainedRun, train

__all__ = [
    "Loss",
    "StepReport",
    "TrainedRun",
    "TrainingSettings",
    "airnet_loss",
    "l1_loss",
    "loss_for",
    "refuse_other_runs",
    "train",
]
