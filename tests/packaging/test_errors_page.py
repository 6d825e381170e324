"""docs/errors.md has every error, as the code has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared import errors
from shared.errors import BatonError

PAGE = (Path(__file__).parents[2] / "docs/errors.md").read_text()


def declared() -> list[type[BatonError]]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BatonError)]
    return sorted(kinds, key=lambda kind: kind.code)


@pytest.mark.parametrize("kind", declared(), ids=lambda kind: kind.code)
def test_an_error_is_on_the_page(kind: type[BatonError]) -> None:
    assert f"| `{kind.code}` | {kind.http_status} | {'yes' if kind.retryable else 'no'} |" in PAGE
