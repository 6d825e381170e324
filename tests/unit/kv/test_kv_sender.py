"""What a sender does with what decode says, and when decode says nothing."""

from __future__ import annotations

import asyncio

import pytest
from kv_pair import TRANSFER, Faults, Pair
from virtual_time import run

from shared.core import KvLayout, KvRegion
from shared.errors import HandoffFailed
from shared.protocol.to_decode import Manifest
from shared.protocol.to_prefill import Credit, Imported, Nack, TransferRefused
from shared.runtime.tasks import Tasks

LAYOUT = KvLayout(layers=2, kv_heads=1, head_dim=2, dtype="float32")
SILENT = Faults(lose=1.0)


def test_a_refusal_ends_the_transfer_with_its_reason() -> None:
    pair = Pair(LAYOUT, tokens=8, window_bytes=1 << 20, faults=SILENT)
    pair.sender.on_feedback(TransferRefused(transfer=TRANSFER, reason="out of luck"))
    with pytest.raises(HandoffFailed, match="out of luck"):
        run(pair.send())


def test_a_refusal_stops_the_chunks_that_wait_for_credit() -> None:
    pair = Pair(LAYOUT, tokens=64, window_bytes=256, faults=SILENT)
    pair.sender.on_feedback(TransferRefused(transfer=TRANSFER, reason="gone"))
    with pytest.raises(HandoffFailed, match="gone"):
        run(pair.send())
    assert pair.channel.published_bytes == 0


@pytest.mark.parametrize(
    "feedback",
    [
        Imported(transfer=TRANSFER + 1),
        TransferRefused(transfer=TRANSFER + 1, reason="not yours"),
        Credit(transfer=TRANSFER + 1, total_bytes=1 << 30),
        Nack(transfer=TRANSFER + 1, missing=(), credit_bytes=1 << 30),
    ],
    ids=lambda feedback: type(feedback).__name__,
)
def test_feedback_on_another_transfer_is_ignored(feedback: Credit | Nack | Imported | TransferRefused) -> None:
    pair = Pair(LAYOUT, tokens=64, window_bytes=256, faults=SILENT)
    pair.sender.on_feedback(feedback)
    with pytest.raises(HandoffFailed, match="credit"):
        run(pair.send())
    assert pair.channel.published_bytes <= 256


def test_a_nack_for_what_is_not_in_the_sequence_is_ignored() -> None:
    pair = Pair(LAYOUT, tokens=8, window_bytes=1 << 20, faults=SILENT)
    nonsense = (KvRegion(0, 9, 0, 1), KvRegion(0, 1, 5, 5), KvRegion(-1, 1, 0, 1), KvRegion(0, 1, 0, 1 << 60))
    answered = pair.channel.manifest

    async def nack_once(manifest: Manifest) -> None:
        await answered(manifest)
        if pair.channel.manifests == 1:
            pair.sender.on_feedback(Nack(transfer=TRANSFER, missing=nonsense, credit_bytes=0))
        else:
            pair.sender.on_feedback(Imported(transfer=TRANSFER))

    pair.channel.manifest = nack_once  # type: ignore[method-assign]
    run(pair.send())
    assert pair.sender.resent_chunks == 0


def test_what_a_nack_names_is_sent_again_and_counted() -> None:
    pair = Pair(LAYOUT, tokens=16, chunk_bytes=64, window_bytes=1 << 20)
    lost: list[bytes] = []
    arrives = pair.channel._chunk_arrives

    def lose_the_first(data: bytes) -> None:
        if not lost:
            lost.append(data)
        else:
            arrives(data)

    pair.channel._chunk_arrives = lose_the_first  # type: ignore[method-assign]
    run(pair.send())
    assert pair.identical
    assert (pair.sender.resent_chunks, pair.channel.manifests) == (1, 2)


def test_no_chunk_is_larger_than_half_the_window() -> None:
    pair = Pair(LAYOUT, tokens=64, chunk_bytes=1 << 20, window_bytes=256)
    run(pair.send())
    assert pair.identical
    assert max(pair.channel.sizes) <= 128


def test_a_window_that_holds_not_one_token_of_a_layer_fails() -> None:
    pair = Pair(LAYOUT, tokens=4, window_bytes=LAYOUT.token_layer_bytes - 1)
    with pytest.raises(HandoffFailed):
        run(pair.send())
    assert pair.channel.published_bytes == 0


def test_slices_go_while_later_ones_are_still_computed() -> None:
    async def go() -> None:
        pair = Pair(LAYOUT, tokens=8, window_bytes=1 << 20)
        pair.sender.computed(0, 4)
        async with Tasks("sending") as tasks:
            sending = tasks.start(pair.sender.send(), name="send")
            await asyncio.sleep(0.1)
            assert pair.channel.published_bytes == 4 * LAYOUT.token_bytes
            pair.sender.computed(4, 8)
            pair.sender.finish(first_token=1)
            await sending
        assert pair.identical

    run(go())
