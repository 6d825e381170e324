"""Children that die with their parent, and pinning to cores."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from shared.errors import ConfigError
from shared.runtime.process import available_cores, pin_to

PARENT = """
import subprocess, sys
from shared.runtime.process import die_with_parent
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, preexec_fn=die_with_parent())
print(child.pid, flush=True)
input()
"""


def test_a_child_is_killed_with_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    gone, alive = psutil.wait_procs([child], timeout=20)
    assert not alive
    assert len(gone) == 1


def test_a_process_uses_only_the_cores_it_is_pinned_to() -> None:
    core = available_cores()[-1]
    program = f"from shared.runtime.process import *; pin_to([{core}]); print(*available_cores())"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).split() == [str(core)]


def test_a_core_that_does_not_exist_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="100000"):
        pin_to([100_000])
