"""Which cells of a sequence's KV have arrived: a bitmap of layers x tokens."""

from __future__ import annotations

import numpy as np

from shared.core import KvLayout, KvRegion


class Coverage:
    """Arrived cells of tokens `[token_start, tokens)`; what lies before `token_start` was there already."""

    def __init__(self, layout: KvLayout, token_start: int, tokens: int) -> None:
        self._cells = np.zeros((layout.layers, tokens), dtype=bool)
        self._cells[:, :token_start] = True

    def holds(self, region: KvRegion) -> bool:
        return bool(self._view(region).all())

    def add(self, region: KvRegion) -> None:
        self._view(region)[:] = True

    @property
    def complete(self) -> bool:
        return bool(self._cells.all())

    def missing(self) -> list[KvRegion]:
        """What has not arrived, as few rectangles: runs of tokens, joined over neighbouring layers."""
        regions: list[KvRegion] = []
        open_runs: dict[tuple[int, int], int] = {}
        for layer, row in enumerate(self._cells):
            runs = set(_false_runs(row))
            ended = open_runs.keys() - runs
            regions += [KvRegion(open_runs.pop(run), layer, *run) for run in ended]
            for run in runs:
                open_runs.setdefault(run, layer)
        regions += [KvRegion(layer, len(self._cells), *run) for run, layer in open_runs.items()]
        return sorted(regions, key=lambda region: (region.layer_start, region.token_start))

    def _view(self, region: KvRegion) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        return self._cells[region.layer_start : region.layer_stop, region.token_start : region.token_stop]


def _false_runs(row: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([True], row, [True])).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
