"""torch's tensors and files for `zoo.weights`, whichever framework computes: loads no Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch


def tensor(array: np.ndarray) -> torch.Tensor:
    """The array as a tensor of its own, on the CPU; bfloat16, which is none of NumPy's types, too."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(np.array(array, order="C"))


def numpy(tensor: torch.Tensor) -> np.ndarray:
    """A tensor of any device as an array, bfloat16 as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file of torch.save, by name; nothing else in it is looked at, and no code is run.

    A training script's file often has them one level down, under "model" or "state_dict".
    """
    found: Any = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        found = found[key] if isinstance(found, dict) and isinstance(found.get(key), dict) else found
    if not isinstance(found, dict):
        raise ValueError(f"a {type(found).__name__}, not tensors by name")
    return {name: numpy(value) for name, value in found.items() if isinstance(value, torch.Tensor)}
