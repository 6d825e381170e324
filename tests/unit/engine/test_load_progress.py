"""What a long load says, and a quick one does not."""

from __future__ import annotations

import logging

import pytest

from shared.engine.load_progress import LoadProgress


def test_one_line_per_interval_and_none_before_the_first(caplog: pytest.LogCaptureFixture) -> None:
    moments_s = iter([0.0, 1.0, 3.5, 5.0, 7.0])
    progress = LoadProgress("big", interval_s=3.0, clock=lambda: next(moments_s))
    with caplog.at_level(logging.INFO):
        for layer in range(1, 5):
            progress("layers read and packed", layer, 32)
    assert [record.getMessage() for record in caplog.records] == [
        "loading big: layers read and packed, 2 of 32, 4 s so far",
        "loading big: layers read and packed, 4 of 32, 7 s so far",
    ]
