"""What goes into the journal next."""

from __future__ import annotations

from services.gateway.kept.page import RECORD_TOKENS, Page
from services.gateway.kept.transcript import Transcript
from shared.core import FinishReason, SampledToken, TokenLogprob
from shared.errors import WorkerFailed
from shared.protocol.to_client import Timings
from shared.protocol.wire import unpack_ids


def sampled(*ids: int) -> list[SampledToken]:
    return [SampledToken(token_id) for token_id in ids]


def page_of(transcript: Transcript, written: int = 0) -> Page:
    return Page("0" * 32, 3, transcript, lambda: 2.5, written=written)


def test_each_token_is_written_once():
    transcript = Transcript(sampled(*range(16)))
    page = page_of(transcript)
    first = page.next()
    assert first is not None
    assert (first.tenure, first.index, unpack_ids(first.ids), first.left_ms) == (3, 0, list(range(16)), 2500)
    assert page.next() is None
    transcript.extend(sampled(*range(20)), None, None)
    second = page.next()
    assert second is not None
    assert (second.index, unpack_ids(second.ids), second.finish) == (16, list(range(20)), None)


def test_records_grow_with_the_answer():
    transcript = Transcript()
    page = page_of(transcript)
    sizes = []
    for number in range(5000):
        transcript.extend(sampled(number), None, None)
        record = page.next()
        if record is not None:
            sizes.append(len(unpack_ids(record.ids)))
    assert sizes == sorted(sizes)
    assert (sizes[:2], len(sizes)) == ([1, 16], 40)
    assert 5000 - sum(sizes) <= 5000 / 8


def test_the_first_token_is_written_alone_for_what_made_it():
    transcript = Transcript()
    page = page_of(transcript)
    page.fingerprint = "f"
    assert page.next() is None
    transcript.extend(sampled(7), None, None)
    record = page.next()
    assert record is not None
    assert (unpack_ids(record.ids), record.fingerprint) == ([7], "f")


def test_what_is_closed_is_written_whole():
    page = page_of(Transcript(sampled(0, 1, 2)), written=1)
    assert page.next() is None
    page.closed = True
    record = page.next()
    assert record is not None
    assert unpack_ids(record.ids) == [1, 2]
    assert page.next() is None


def test_the_end_is_written_once_with_the_last_tokens_or_alone():
    transcript = Transcript(sampled(1))
    page = page_of(transcript, written=1)
    transcript.extend(sampled(2), FinishReason.STOP, Timings(total_ms=1.0))
    assert page.urgent
    last = page.next()
    assert last is not None
    assert (unpack_ids(last.ids), last.finish, last.timings) == ([2], FinishReason.STOP, Timings(total_ms=1.0))
    assert page.next() is None
    assert not page.urgent

    failed = Transcript(sampled(1))
    failed.fail(WorkerFailed("broken"))
    alone = page_of(failed, written=1).next()
    assert alone is not None
    assert (alone.index, alone.ids, alone.error) == (1, b"", WorkerFailed("broken").info)


def test_many_tokens_are_several_records_and_the_last_has_the_end():
    transcript = Transcript(sampled(*range(RECORD_TOKENS + 5)))
    transcript.extend((), FinishReason.LENGTH, None)
    page = page_of(transcript)
    first, second = page.next(), page.next()
    assert first is not None
    assert second is not None
    assert (first.finish, second.finish, second.index) == (None, FinishReason.LENGTH, RECORD_TOKENS)
    assert page.next() is None


def test_what_the_journal_lost_is_written_again():
    transcript = Transcript(sampled(*range(20)))
    page = page_of(transcript, written=20)
    assert page.next() is None
    page.rewrite()
    again = page.next()
    assert again is not None
    assert (again.index, unpack_ids(again.ids)) == (0, list(range(20)))


def test_log_probabilities_are_written_if_there_are_any():
    plain = page_of(Transcript(sampled(*range(16)))).next()
    assert plain is not None
    assert plain.logprobs is None
    rich = page_of(Transcript([SampledToken(1, TokenLogprob(-1.0))] * 16)).next()
    assert rich is not None
    assert rich.logprobs == (TokenLogprob(-1.0),) * 16
