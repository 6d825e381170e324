"""The systemd units: systemd accepts them, and they fit the programs they start."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli_settings import KINDS, load_settings
from shared.runtime.options import options_of

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "deploy" / "systemd"
PREFIX = "/opt/baton/venv/bin"
UNITS = sorted(SYSTEMD.glob("*.service"))
SERVICE_UNITS = [unit for unit in UNITS if unit.name != "baton-nats.service"]
STOP_S = 15


def directives(unit: Path) -> dict[str, str]:
    """The last value of each directive of [Service]."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    return dict(parser["Service"])


def role(unit: Path) -> str:
    return unit.name.removeprefix("baton-").removesuffix(".service").removesuffix("@")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """On a copy whose programs are this environment's, for systemd checks that they exist."""
    programs = Path(sys.executable).parent
    copies = []
    for unit in [*UNITS, SYSTEMD / "baton.target"]:
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text().replace(PREFIX, str(programs)))
        copies.append(str(copy))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *copies],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("unit", SERVICE_UNITS, ids=lambda unit: unit.name)
def test_a_service_tells_when_it_is_ready_and_may_drain_to_its_end(unit: Path) -> None:
    service = directives(unit)
    drain_s = options_of(KINDS[role(unit)])["drain_timeout_s"].default
    assert service["Type"] == "notify"
    assert float(service["TimeoutStopSec"]) > drain_s + STOP_S
    assert service["Restart"] == "on-failure"
    assert service["ExecStart"] == f"{PREFIX}/baton-{role(unit)}"


@pytest.mark.parametrize("unit", SERVICE_UNITS, ids=lambda unit: unit.name)
def test_what_a_unit_sets_is_a_setting(unit: Path) -> None:
    names = {part.partition("=")[0] for part in directives(unit)["Environment"].split()}
    assert names <= {f"BATON_{key.upper()}" for kind in KINDS.values() for key in options_of(kind)}


@pytest.mark.parametrize("sample", sorted((SYSTEMD / "env").glob("*.env")), ids=lambda sample: sample.name)
def test_every_line_of_a_sample_is_a_setting_once_uncommented(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = re.findall(r"^#(BATON_\w+)=(.*)$", sample.read_text(), flags=re.MULTILINE)
    assert lines
    for name, value in lines:
        monkeypatch.setenv(name, value)
    name = sample.stem.removeprefix("baton-")
    for service in [name] if name in KINDS else ["gateway", "scheduler", "prefill", "decode"]:
        load_settings(KINDS[service], service, [])


def test_the_nats_configuration_is_valid() -> None:
    program = Path(sys.executable).with_name("nats-server")
    configuration = ROOT / "deploy" / "nats" / "nats-server.conf"
    checked = subprocess.run([program, "-c", configuration, "-t"], capture_output=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stderr
