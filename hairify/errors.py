"""The named errors of hairify.

Every error derives from `HairError`. Its text names the module concerned, what was expected, what came
instead, and the way out. An error leaves the user's model as it was.
"""


class HairError(Exception):
    """Base of all errors raised by hairify."""


class OptionError(HairError, ValueError):
    """An argument of `hairify` or `plan` has a value that is not accepted."""


class ExampleInputError(HairError, ValueError):
    """The model could not be run on the example inputs (given, or tried by default)."""


class SplitError(HairError, ValueError):
    """The split does not exist, never runs, or its output cannot feed the DAC."""


class NothingToConvertError(HairError, ValueError):
    """No layer after the split can be converted."""


class AlreadyConvertedError(HairError, TypeError):
    """A `HairModel` was to be converted again."""


class BoxSizeError(HairError, ValueError):
    """A Weight Box is too small: to hold the trained weights of its level, or to give images different ones."""


class PlanMismatchError(HairError, ValueError):
    """A plan does not fit the model it is applied to."""


class DACError(HairError, ValueError):
    """A DAC does not map the split's feature to a vector per image."""


class CalibrationError(HairError, ValueError):
    """A HairModel cannot be calibrated on what it was given, or can no longer be without changing what it computes."""


class ConditioningError(HairError, ValueError):
    """Images, names of degradations and model do not fit each other, so that the use of the GIV cannot be measured."""


class GIVError(HairError, ValueError):
    """A global information vector has the wrong shape or belongs to another batch."""


class BatchMismatchError(HairError, ValueError):
    """A tensor cannot be divided evenly among the images whose weights it meets."""


class ShapeError(HairError, ValueError):
    """Tensors given to a per-image operation do not fit each other."""


class OutsideForwardError(HairError, RuntimeError):
    """A hyper layer ran where no GIV is known: outside its `HairModel`'s forward, or before the split."""


class NoWeightError(HairError, AttributeError):
    """The weight of a hyper layer was to be used from outside; it owns none."""


class RecomputationError(HairError, RuntimeError):
    """A checkpointed block cannot be run again on what it was run on."""


class BakeError(HairError, ValueError):
    """A static model was asked of something other than exactly one image or GIV."""


class GraphError(HairError, RuntimeError):
    """torch.fx cannot follow the model, so it has no explicit graph."""


class CopyError(HairError, TypeError):
    """The model holds something that cannot be copied."""


class CheckpointError(HairError, ValueError):
    """A file is not a hairify checkpoint, is damaged, or does not fit the model."""


class NetworkError(HairError, ValueError):
    """A network cannot be found by its name, built with its options, or run on images."""


class DataError(HairError, ValueError):
    """There are no usable images, a data set lacks a part, or a degradation is not known."""


class ImageError(HairError, ValueError):
    """A file cannot be read, or written, as an image."""


class TrainingError(HairError, RuntimeError):
    """A training run cannot start, go on or be resumed."""


class ExportError(HairError, RuntimeError):
    """The network cannot be exported, or what it was exported as computes something else."""


class TorchVersionError(HairError, RuntimeError):
    """This release of PyTorch lacks something undocumented that hairify uses."""


class TuningError(HairError, ValueError):
    """A file is no tuning, or one for another device, number of threads or release of PyTorch."""


class HairWarning(UserWarning):
    """It worked, but not as one would expect: little of a model was converted, or images were left out."""
