"""Restorers in folders, on the Hugging Face Hub and in hairify itself, and as ONNX files."""

from hairify.sharing._baked import save_baked
from hairify.sharing._compressing import Comparison, Precision, check_precision, compare, compress
from hairify.sharing._exporting import ENDINGS, Format, check_export, export
from hairify.sharing._hub import (
    BUNDLED,
    CARD,
    CONFIG,
    FILES,
    RESULTS,
    WEIGHTS,
    Restorer,
    from_pretrained,
    model_card,
    push_to_hub,
    save_pretrained,
    save_results,
)
from hairify.sharing._spandrel import (
    from_spandrel_tensors,
    register_with_spandrel,
    save_for_spandrel,
    to_spandrel_tensors,
)

__all__ = [
    "BUNDLED",
    "CARD",
    "CONFIG",
    "ENDINGS",
    "FILES",
    "RESULTS",
    "WEIGHTS",
    "Comparison",
    "Format",
    "Precision",
    "Restorer",
    "check_export",
    "check_precision",
    "compare",
    "compress",
    "export",
    "from_pretrained",
    "from_spandrel_tensors",
    "model_card",
    "push_to_hub",
    "register_with_spandrel",
    "save_baked",
    "save_for_spandrel",
    "save_pretrained",
    "save_results",
    "to_spandrel_tensors",
]
