"""Every kernel compiles for Hopper as the product launches it, fits a multiprocessor, and uses the matrix units."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed: it belongs to torch's CUDA builds")

SCRIPT = Path(__file__).parents[3] / "support" / "compile_for_hopper.py"
SHARED_BYTES = 227 << 10


@pytest.fixture(scope="module")
def everything() -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    root = str(Path(__file__).parents[4])
    environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [environment.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False, env=environment, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def report(everything: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: one for name, one in everything.items() if name != "anew"}


@pytest.mark.timeout(300)
def test_batches_of_other_sizes_compile_nothing(everything: dict[str, Any]) -> None:
    assert everything["anew"] == 0


@pytest.mark.timeout(300)
def test_all_compile_and_fit(report: dict[str, dict[str, Any]]) -> None:
    kernels = {"add_rms_norm", "silu_mul", "rope_store", "store", "prefill", "decode_split", "decode_merge"}
    assert {name.split()[1] for name in report} == kernels
    assert max(one["shared"] for one in report.values()) <= SHARED_BYTES
    bf16 = {name: one["spilled"] for name, one in report.items() if "-f32" not in name}
    assert not any(bf16.values()), bf16


@pytest.mark.timeout(300)
def test_prefill_multiplies_in_the_matrix_units(report: dict[str, dict[str, Any]]) -> None:
    prefill = [one for name, one in report.items() if " prefill" in name]
    assert all(one["wgmma"] and one["ahead"] for one in prefill)
