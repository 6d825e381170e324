"""Workers that do not pair are told of once."""

from __future__ import annotations

import pytest
from scheduler_words import decode_beat, prefill_beat

from services.scheduler.pair_log import PairLog
from shared.core import ModelParts

HERE = ModelParts(rope="1")
THERE = ModelParts(rope="2")


def test_it_says_which_workers_and_why_once_per_start(caplog: pytest.LogCaptureFixture) -> None:
    log = PairLog()
    prefill = prefill_beat("p0", fingerprint="a", parts=HERE)
    workers = [prefill, decode_beat("d0", fingerprint="a", parts=HERE), decode_beat("d1", fingerprint="b", parts=THERE)]
    for round_ in range(3):
        for number, beat in enumerate(workers):
            log.hear(beat, workers if round_ else workers[: number + 1])
    told = [record.getMessage() for record in caplog.records]
    assert told == ["decode d1 does not pair with prefill p0 of model m: rope differs"]
    log.hear(decode_beat("d1", fingerprint="b", parts=THERE, boot="again"), workers)
    assert len(caplog.records) == 2


def test_workers_of_other_models_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    PairLog().hear(decode_beat("d1", fingerprint="b", model="n"), [prefill_beat("p0")])
    assert not caplog.records
