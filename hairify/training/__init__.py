"""Training: the paper's recipe for any network, on one process or many; exact to resume."""

from hairify.training.checkpoints import is_begun
from hairify.training.logs import StepReport
from hairify.training.losses import Loss, airnet_loss, l1_loss, loss_for
from hairify.training.settings import TrainingSettings
from hairify.training.sharding import processes
from hairify.training.trainer import TrainedRun, train

__all__ = [
    "Loss",
    "StepReport",
    "TrainedRun",
    "TrainingSettings",
    "airnet_loss",
    "is_begun",
    "l1_loss",
    "loss_for",
    "processes",
    "train",
]
