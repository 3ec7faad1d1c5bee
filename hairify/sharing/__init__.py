"""Restorers in folders, on the Hugging Face Hub, and as ONNX files."""

from hairify.sharing._exporting import ENDINGS, Format, export
from hairify.sharing._hub import (
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

__all__ = [
    "CARD",
    "CONFIG",
    "ENDINGS",
    "FILES",
    "RESULTS",
    "WEIGHTS",
    "Format",
    "Restorer",
    "export",
    "from_pretrained",
    "model_card",
    "push_to_hub",
    "save_pretrained",
    "save_results",
]
