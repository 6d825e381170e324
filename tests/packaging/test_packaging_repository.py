"""What is in the repository: nothing of a developer's machine, nothing that goes stale."""

from __future__ import annotations

import re
import runpy
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Taken apart, or this file would be a finding itself.
FOREIGN = re.compile(
    "|".join(
        (
            r"\bpypi\." + "org",
            r"pythonhosted\." + "org",
            r"download\." + r"pytorch\.org",
            r"registry\." + r"npmjs\.org",
            r"registry\." + r"yarnpkg",
            "/" + r"work/(main|venv|shared)",
            "/" + r"root/",
            "/" + r"home/(?!you\b)\w+",
            "/" + r"Users/\w+",
            "/" + r"opt/(wheels|pypi)",
        )
    )
)


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_registry_or_a_developers_folder() -> None:
    found = []
    for path in tracked_files():
        text = path.read_bytes().decode(errors="replace")
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in FOREIGN.finditer(text)]
    assert found == []


def test_no_file_is_as_large_as_a_model() -> None:
    assert [path for path in tracked_files() if path.stat().st_size > 1 << 20] == []


def test_the_page_of_settings_is_that_of_the_code() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "settings-page"))["page"]()
    expected = (ROOT / "docs" / "settings.md").read_text()
    assert page == expected, "run: python scripts/settings-page > docs/settings.md"


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = project["dependencies"] + [part for extra in project["optional-dependencies"].values() for part in extra]
    return [re.split(r"[\[<>=~! ;]", requirement)[0] for requirement in listed]


@pytest.mark.parametrize("requirement", requirements())
def test_every_dependency_is_pinned(requirement: str) -> None:
    constraints = (ROOT / "constraints.txt").read_text()
    pins = {line.split("==")[0].lower().replace("_", "-") for line in constraints.splitlines() if "==" in line}
    assert requirement.lower().replace("_", "-") in pins, "install it, then run: scripts/lock"


def test_a_machine_without_a_gpu_may_have_everything_that_is_pinned() -> None:
    forbidden = re.findall(r"^([\w-]+)<0$", (ROOT / "constraints-cpu.txt").read_text(), flags=re.MULTILINE)
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert not set(forbidden) & set(pinned)
    assert "+cpu" not in (ROOT / "constraints.txt").read_text()


@pytest.mark.parametrize("script", ["quickstart", "test", "check", "setup", "lock"])
def test_a_script_is_valid_bash(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / "scripts" / script], check=True, timeout=20)
