"""Packing pieces of sequences into one batch."""

from __future__ import annotations

import pytest
import torch

from shared.core import KvLayout
from shared.engine.kv_memory import KvMemory
from shared.engine.packed import Piece, RowRule, pack

CPU = torch.device("cpu")
SPACE = KvMemory(KvLayout(1, 1, 4, "float32"), 1 << 20, CPU).reserve(64)
ONE = RowRule(minimum=1, multiple=1)


def test_pieces_lie_end_to_end_at_their_own_positions() -> None:
    batch = pack([Piece(SPACE, [7, 8, 9], 5, True), Piece(SPACE, [4], 0, False)], ONE, CPU)
    assert batch.input_ids.tolist() == [[7, 8, 9, 4]]
    assert batch.position_ids.tolist() == [[5, 6, 7, 0]]
    assert [(one.row, one.start, one.stop) for one in batch.segments] == [(0, 5, 8), (3, 0, 1)]


def test_logits_are_wanted_of_the_last_row_of_a_piece() -> None:
    batch = pack([Piece(SPACE, [7, 8, 9], 5, True), Piece(SPACE, [4], 0, False), Piece(SPACE, [1], 3, True)], ONE, CPU)
    assert batch.logit_rows.tolist() == [2, 4]
    assert batch.logits == 2


def test_filling_rows_belong_to_nobody() -> None:
    batch = pack([Piece(SPACE, [7], 5, True)], RowRule(minimum=4, multiple=1), CPU)
    assert batch.input_ids.shape == (1, 4)
    assert batch.logit_rows.shape == (4,)
    assert (batch.logits, batch.segments[0].tokens) == (1, 1)


def test_no_logits_wanted_need_no_filling() -> None:
    assert pack([Piece(SPACE, [7], 5, False)], RowRule(minimum=4, multiple=1), CPU).logit_rows.shape == (0,)


@pytest.mark.parametrize(("rows", "missing"), [(0, 0), (1, 7), (4, 4), (8, 0), (9, 7)])
def test_row_rule(rows: int, missing: int) -> None:
    assert RowRule(minimum=4, multiple=8).missing(rows) == missing
