"""docs/structure.md names files and functions that exist, and stays short."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/structure.md").read_text()
HOPS = re.findall(r"`(?P<path>\S+\.py): (?P<names>[\w., ]+)`", PAGE)


def definitions(path: Path) -> set[str]:
    """Functions and classes of a module, methods as `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{item.name}"
                for item in node.body
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return names


def test_the_page_is_at_most_60_lines() -> None:
    assert len(PAGE.splitlines()) <= 60


@pytest.mark.parametrize(("path", "names"), HOPS, ids=[f"{path}: {names}" for path, names in HOPS])
def test_a_hop_is_where_the_page_says(path: str, names: str) -> None:
    assert set(names.split(", ")) <= definitions(ROOT / path)
