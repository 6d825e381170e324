"""A packed batch whose pages are made already: a decode step from tensors that stay where they are."""

from __future__ import annotations

from dataclasses import dataclass

from shared.engine.cuda.pages import Pages
from shared.engine.packed import PackedBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedBatch(PackedBatch):
    """`segments` are of no use here, and empty."""

    pages: Pages
