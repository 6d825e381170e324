from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from shared.errors import ConfigError, ModelNotFound, Unavailable
from shared.models.catalogue import WheelModel
from shared.models.manifest import read_manifest
from shared.models.pull import pull
from shared.models.store import ModelFolder, model_path


class Silent:
    """Progress nobody sees."""

    def stage(self, title: str, total_bytes: int | None = None) -> None: ...

    def reached(self, done_bytes: int) -> None: ...


class Converter:
    """Instead of the real conversion: copies the file and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, gguf_file: Path, folder: Path) -> None:
        self.calls += 1
        (folder / "model.safetensors").write_bytes(gguf_file.read_bytes())
        (folder / "config.json").write_text("{}")


class Cache:
    """A cache folder and the wheels pip may look at."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder = folder
        self.convert = Converter()
        self.pip_arguments = ["--no-index", "--find-links", str(wheels)]

    def pull(
        self, model: WheelModel, *, progress: Silent | None = None, convert: Converter | None = None
    ) -> ModelFolder:
        return pull(
            model.name,
            self.folder,
            progress or Silent(),
            pip_arguments=self.pip_arguments,
            catalogue={model.name: model},
            convert=convert or self.convert,
        )

    def left(self) -> list[Path]:
        """What is left besides locks."""
        return [path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.fixture
def cache(tmp_path: Path, wheels: Path) -> Cache:
    return Cache(tmp_path / "cache", wheels)


def test_a_pulled_model_lies_in_the_cache_with_its_manifest(cache: Cache, tiny: WheelModel) -> None:
    folder = cache.pull(tiny)
    assert folder == ModelFolder("tiny", model_path("tiny", cache.folder))
    assert (folder.path / "model.safetensors").read_bytes() == b"GGUF of sorts"
    manifest = read_manifest(folder.path)
    assert manifest is not None
    assert (manifest.source, manifest.licence) == ("tiny-model==1.0", "Apache-2.0")
    assert manifest.is_intact(folder.path)
    assert {path.parent for path in cache.left()} == {folder.path}


def test_what_is_there_and_intact_is_not_fetched_again(cache: Cache, tiny: WheelModel) -> None:
    cache.pull(tiny)
    cache.pip_arguments = ["--no-such-option"]
    cache.pull(tiny)
    assert cache.convert.calls == 1


def test_what_is_there_but_damaged_is_replaced(cache: Cache, tiny: WheelModel) -> None:
    weights = cache.pull(tiny).path / "model.safetensors"
    weights.write_bytes(b"gguf of sorts")
    cache.pull(tiny)
    assert weights.read_bytes() == b"GGUF of sorts"


def test_a_file_with_another_checksum_never_becomes_a_model(cache: Cache, damaged: WheelModel) -> None:
    with pytest.raises(Unavailable, match="SHA-256"):
        cache.pull(damaged)
    assert cache.convert.calls == 0
    assert cache.left() == []


def test_a_wheel_without_the_file_is_refused(cache: Cache, tiny: WheelModel) -> None:
    with pytest.raises(Unavailable, match="not what it should be"):
        cache.pull(msgspec.structs.replace(tiny, member=tiny.member + ".other"))


def test_what_pip_cannot_find_is_told_in_its_words(cache: Cache, tiny: WheelModel) -> None:
    with pytest.raises(Unavailable, match=r"No matching distribution found for tiny-model==2\.0"):
        cache.pull(msgspec.structs.replace(tiny, requirement="tiny-model==2.0"))
    assert cache.left() == []


def test_an_interrupted_pull_leaves_nothing_and_can_be_repeated(cache: Cache, tiny: WheelModel) -> None:
    class Interrupted(Converter):
        def __call__(self, gguf_file: Path, folder: Path) -> None:
            super().__call__(gguf_file, folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.pull(tiny, convert=Interrupted())
    assert cache.left() == []
    cache.pull(tiny)


def test_what_a_killed_pull_left_is_cleared_away(cache: Cache, tiny: WheelModel) -> None:
    old = cache.folder / "partial" / "tiny" / "old.whl"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"half a wheel")
    cache.pull(tiny)
    assert not old.exists()


def test_an_interrupted_download_stops_pip(cache: Cache, tiny: WheelModel) -> None:
    class Interrupt(Silent):
        def reached(self, done_bytes: int) -> None:
            if connected.is_set():
                raise KeyboardInterrupt

    def accept() -> bytes:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connected.set()
            return connection.recv(1)

    connected = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        index = f"http://127.0.0.1:{server.getsockname()[1]}/"
        cache.pip_arguments = ["--index-url", index, "--timeout", "60", "--proxy", ""]
        closed = pool.submit(accept)
        with pytest.raises(KeyboardInterrupt):
            cache.pull(tiny, progress=Interrupt())
        assert closed.result(timeout=10) == b""
    assert cache.left() == []


def test_two_pulls_at_once_do_it_once(cache: Cache, tiny: WheelModel) -> None:
    waiting = threading.Event()

    class Slow(Converter):
        def __call__(self, gguf_file: Path, folder: Path) -> None:
            waiting.wait(timeout=60)
            super().__call__(gguf_file, folder)

    class Watch(Silent):
        def stage(self, title: str, total_bytes: int | None = None) -> None:
            if title.startswith("Waiting for another pull"):
                waiting.set()

    convert = Slow()
    with ThreadPoolExecutor(2) as pool:
        pulls = [pool.submit(cache.pull, tiny, progress=Watch(), convert=convert) for _ in range(2)]
        first, second = (each.result(timeout=60) for each in pulls)
    assert waiting.is_set()
    assert convert.calls == 1
    assert first == second


def test_too_little_disk_space_is_told_before_anything_is_fetched(cache: Cache, tiny: WheelModel) -> None:
    cache.pip_arguments = ["--no-such-option"]
    with pytest.raises(Unavailable, match="MB needed"):
        cache.pull(msgspec.structs.replace(tiny, needed_bytes=1 << 62))


def test_a_cache_that_cannot_be_written_is_named(cache: Cache, tiny: WheelModel) -> None:
    cache.folder.write_text("a file where the folder should be")
    with pytest.raises(ConfigError, match=str(cache.folder)):
        cache.pull(tiny)


@pytest.mark.parametrize("name", ["smollm2", "../tiny", "a/b/c", ""])
def test_an_unknown_name_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFound):
        pull(name, tmp_path / "cache", Silent())
    assert not (tmp_path / "cache").exists()
