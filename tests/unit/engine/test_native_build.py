"""Building and keeping the native library: once, whole or not at all, and never in the way of serving without it."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from native_library import needs_compiler

from shared.engine import native
from shared.engine.native import build

SMALL = 'extern "C" int baton_answer() { return 42; }\n'


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one small source, which stands in for the kernels'."""
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "small.cpp").write_text(SMALL)
    monkeypatch.setattr(build, "SOURCES", folder)
    return folder


def compiled(folder: Path) -> list[Path]:
    return sorted(folder.glob("native/*.so"))


@needs_compiler
def test_built_once_and_again_for_other_sources(sources: Path, tmp_path: Path) -> None:
    first = build.built_library(tmp_path)
    made = first.stat().st_mtime_ns
    assert build.built_library(tmp_path) == first
    assert first.stat().st_mtime_ns == made
    (sources / "small.cpp").write_text(SMALL.replace("42", "43"))
    assert build.built_library(tmp_path) != first
    assert len(compiled(tmp_path)) == 2


@needs_compiler
def test_other_flags_and_another_processor_get_a_library_of_their_own(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.built_library(tmp_path)
    build.built_library(tmp_path, (*build.FLAGS, "-g"))
    (tmp_path / "cpuinfo").write_text("model name\t: another\n\nmodel name\t: second\n")
    monkeypatch.setattr(build, "_CPU_INFO", tmp_path / "cpuinfo")
    build.built_library(tmp_path)
    assert len(compiled(tmp_path)) == 3


@needs_compiler
def test_two_builders_at_once_build_once(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = []
    real = build._build

    def counted(compiler: str, flags: Sequence[str], built: Path) -> None:
        builds.append(built)
        real(compiler, flags, built)

    monkeypatch.setattr(build, "_build", counted)
    threads = [threading.Thread(target=build.built_library, args=(tmp_path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds == compiled(tmp_path)


@needs_compiler
def test_sources_that_do_not_compile_leave_nothing(
    sources: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (sources / "small.cpp").write_text("no C++")
    assert native.load(tmp_path) is None
    assert not compiled(tmp_path)
    assert len(caplog.records) == 1


@needs_compiler
def test_a_library_without_the_kernels_is_not_used(sources: Path, tmp_path: Path) -> None:
    assert native.load(tmp_path) is None


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(build, "_COMPILERS", ("no-such-compiler",))
    assert native.load(tmp_path) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no-such-compiler" in record.getMessage()


@needs_compiler
def test_who_has_been_told_is_not_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert native.load(tmp_path, told=True) is None
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "native").write_text("a file where the folder should be")
    assert native.load(tmp_path) is None


@needs_compiler
def test_a_folder_that_others_may_write_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "native").mkdir()
    (tmp_path / "native").chmod(0o777)
    assert native.load(tmp_path) is None


def test_sources_ship_with_the_package() -> None:
    names = {source.suffix for source in build.SOURCES.iterdir()}
    assert names == {".cpp", ".h"}
    assert sys.modules["shared.engine.native"].__file__ is not None
