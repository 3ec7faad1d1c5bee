"""Restorers in folders, on the Hugging Face hub, and as ONNX files."""
