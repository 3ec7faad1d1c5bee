"""Training: the paper's recipe for any network, on one process or many; exact to resume."""

from hairify.training._checkpoints import is_begun
from hairify.training._logs import StepReport
from hairify.training._losses import Loss, airnet_loss, l1_loss, loss_for
from hairify.training._settings import TrainingSettings
from hairify.training._sharding import processes
from hairify.training._starting import Start, StartSettings, started_from
from hairify.training._trainer import TrainedRun, train

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
