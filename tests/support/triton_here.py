"""Triton as this machine has it: on its GPU, or in the interpreter. Tests that import this are skipped without it."""

from __future__ import annotations

import importlib.metadata
import os

import numpy as np
import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

if DEVICE.type == "cpu":
    # Before Triton is imported: its own functions are defined for one of the two.
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="Triton is not installed: it belongs to torch's CUDA builds")
if DEVICE.type == "cpu":
    if importlib.metadata.version("triton").startswith("3.6.") and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("the interpreter of Triton 3.6 does not work with NumPy from 2.4 on", allow_module_level=True)
    import triton_interpreter  # noqa: F401
