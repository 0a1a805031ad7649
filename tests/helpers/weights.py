"""A checkpoint whose weights are others."""

from pathlib import Path

from safetensors.torch import load_file, save_file


def change_a_weight(file: str | Path) -> None:
    """Adds one to the first number of the first tensor: the file has as many bytes as before."""
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, file, metadata={"format": "pt"})
