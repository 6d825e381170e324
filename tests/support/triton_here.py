"""Triton as this machine has it: on its GPU, or in the interpreter. Tests that import this are skipped without it."""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

if DEVICE.type == "cpu":
    # Before Triton is imported: its own functions are defined for one of the two.
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="Triton is not installed: it belongs to torch's CUDA builds")
if DEVICE.type == "cpu":
    import triton_interpreter  # noqa: F401
