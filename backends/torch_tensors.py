"""torch's tensors and files for `zoo.weights`, whichever framework is in use; loads no Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch


def tensor(array: np.ndarray) -> torch.Tensor:
    """A copy of the array as a tensor on the CPU; also of bfloat16, which NumPy itself does not have."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(np.array(array, order="C"))


def numpy(tensor: torch.Tensor) -> np.ndarray:
    """A tensor of any device as an array, bfloat16 as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).resolve_neg().numpy()


def read(path: Path) -> dict[str, Any]:
    """The content of a file of torch.save, with tensors on the CPU; no code in it is run.

    Raises ValueError unless it is a dict.
    """
    found: Any = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, dict):
        raise ValueError(f"it contains a {type(found).__name__}; expected a dict of tensors by name")
    return found


def free_shapes(model: Any) -> list[Any]:
    """The axes of a Keras model's inputs with variable length, as `dynamic_shapes` of torch.export."""
    free = {
        tensor.name: {axis: torch.export.Dim.AUTO for axis, n in enumerate(tensor.shape) if n is None}
        for tensor in model.inputs
    }
    return [(free if isinstance(model.input, dict) else next(iter(free.values())),)]
