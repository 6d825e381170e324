"""The wheel: it can be built, holds all packages, and gives the console scripts."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from services import cli

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """Built from a copy, for setuptools writes into the tree."""
    source = tmp_path_factory.mktemp("source")
    for package in ("services", "shared"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run(
        [*command, "--wheel-dir", target, source], capture_output=True, text=True, check=False, timeout=110
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return zipfile.Path(next(target.glob("*.whl")))


def test_it_holds_every_module(wheel: zipfile.Path) -> None:
    inside = {name for name in wheel.root.namelist() if name.endswith(".py")}
    here = {
        str(path.relative_to(ROOT)) for package in ("services", "shared") for path in (ROOT / package).rglob("*.py")
    }
    assert inside == here


def test_it_gives_the_console_scripts(wheel: zipfile.Path) -> None:
    entry_points = next(name for name in wheel.root.namelist() if name.endswith("entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(wheel.root.read(entry_points).decode())
    scripts = dict(parser["console_scripts"])
    assert set(scripts) == {"baton", "baton-gateway", "baton-scheduler", "baton-prefill", "baton-decode"}
    for target in scripts.values():
        module, function = target.split(":")
        assert module == cli.__name__
        assert callable(getattr(cli, function))
