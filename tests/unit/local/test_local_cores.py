"""Which CPUs each worker gets, on machines of many kinds."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from services.local.cores import Core, Machine, Share, machine, quota, whole_cores
from shared.runtime.process import available_cores


def plain(count: int) -> tuple[Core, ...]:
    return tuple((cpu,) for cpu in range(count))


def first(count: int, found: Machine, workers: int, threads: int = 0) -> list[Share]:
    return list(itertools.islice(found.shares(workers, threads), count))


@pytest.mark.parametrize(
    ("cores", "workers", "each"), [(1, 2, 1), (2, 2, 1), (3, 2, 1), (4, 2, 2), (16, 2, 8), (16, 3, 5), (2, 4, 1)]
)
def test_the_cores_are_shared_out_evenly(cores: int, workers: int, each: int) -> None:
    shares = first(workers, Machine(plain(cores)), workers)
    assert [share.threads for share in shares] == [each] * workers
    assert all(len(share.cpus) == each for share in shares)
    if cores >= workers:
        assert len({cpu for share in shares for cpu in share.cpus}) == each * workers


def test_threads_can_be_said() -> None:
    assert first(3, Machine(plain(4)), 2, threads=1) == [Share(1, (0,)), Share(1, (1,)), Share(1, (2,))]
    assert first(2, Machine(plain(4)), 2, threads=3) == [Share(3, (0, 1, 2)), Share(3, (3, 0, 1))]


def test_more_threads_than_cores_run_anywhere() -> None:
    assert first(1, Machine(plain(2)), 2, threads=3) == [Share(3)]


def test_both_threads_of_a_core_go_to_one_worker() -> None:
    found = Machine(((0, 4), (1, 5), (2, 6), (3, 7)))
    assert first(2, found, 2) == [Share(2, (0, 4, 1, 5)), Share(2, (2, 6, 3, 7))]


def test_workers_get_a_thread_of_a_core_each_where_there_are_more_of_them_than_cores() -> None:
    """No core has two before each has one."""
    assert first(2, Machine(((0, 1),)), 2) == [Share(1, (0,)), Share(1, (1,))]
    cores = ((0, 3), (1, 4), (2, 5))
    assert [share.cpus for share in first(5, Machine(cores), 5)] == [(0,), (1,), (2,), (3,), (4,)]
    assert [share.cpus for share in first(3, Machine(((0, 2), (1,))), 3)] == [(0,), (1,), (2,)]


def test_a_machine_shared_by_quota_binds_nobody_to_its_cores() -> None:
    assert first(2, Machine(plain(64), quota=8.0), 2) == [Share(4), Share(4)]
    assert first(1, Machine(plain(64), quota=0.5), 2) == [Share(1)]
    assert first(1, Machine(plain(4), quota=4.0), 2) == [Share(2, (0, 1))]
    two_threads_a_core = tuple((cpu, cpu + 8) for cpu in range(8))
    assert first(1, Machine(two_threads_a_core, quota=8.0), 2) == [Share(4)]
    assert first(1, Machine(two_threads_a_core, quota=12.0), 2) == [Share(4)]


def siblings(folder: Path, lists: dict[int, str]) -> Path:
    for cpu, text in lists.items():
        (folder / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (folder / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(text + "\n")
    return folder


def test_cores_are_what_the_kernel_says(tmp_path: Path) -> None:
    cpus = siblings(tmp_path, {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5", 8: "8-9", 9: "8-9"})
    assert whole_cores((9, 8, 5, 4, 1, 0), cpus) == ((0, 4), (1, 5), (8, 9))
    assert whole_cores((0, 1, 5), cpus) == ((0,), (1, 5))


@pytest.mark.parametrize("text", ["", "none", "1,x", "-"])
def test_where_the_kernel_does_not_say_each_cpu_is_a_core(tmp_path: Path, text: str) -> None:
    assert whole_cores((2, 3), siblings(tmp_path, {2: text})) == ((2,), (3,))


def groups(folder: Path, limits: dict[str, str]) -> Path:
    for path, text in limits.items():
        (folder / path).mkdir(parents=True, exist_ok=True)
        (folder / path / "cpu.max").write_text(text + "\n")
    return folder


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"a/b": "max 100000"}, None),
        ({"a/b": "250000 100000"}, 2.5),
        ({"a/b": "max 100000", "a": "400000 100000"}, 4.0),
        ({"a/b": "300000 100000", "a": "400000 100000", ".": "200000 100000"}, 2.0),
        ({"a/b": "garbage"}, None),
        ({"a/b": "100 0"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_the_narrowest_quota_counts(tmp_path: Path, limits: dict[str, str], expected: float | None) -> None:
    own = tmp_path / "own"
    own.write_text("1:name=systemd:/x\n0::/a/b\n")
    assert quota(own, groups(tmp_path / "groups", limits)) == expected


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert quota(tmp_path / "missing", tmp_path) is None
    (tmp_path / "old").write_text("4:cpu:/a\n")
    assert quota(tmp_path / "old", tmp_path) is None


def test_this_machine_has_the_cores_that_it_has() -> None:
    allowed = available_cores()
    assert sorted(cpu for core in machine(allowed).cores for cpu in core) == list(allowed)
