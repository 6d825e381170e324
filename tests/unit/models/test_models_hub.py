from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ModelNotFound, Unavailable
from shared.models import pull as pull_module
from shared.models.hub import download_from_hub
from shared.models.pull import pull
from shared.models.store import resolve

SHA = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"vocab_size": 8, "max_position_embeddings": 8}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "chat_template.jinja": b"{{ messages }}",
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"import os",
    "onnx/model.onnx": b"onnx",
    "original/params.json": b"{}",
}


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as a download needs: one model, `org/tiny`."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.split("?")[0]
        resolved = f"/org/tiny/resolve/{SHA}/"
        if path.startswith(resolved) and (content := FILES.get(path.removeprefix(resolved))) is not None:
            self._send(200, content, with_body, ETag=f'"{_etag(content)}"', **{"X-Repo-Commit": SHA})
        elif path.startswith("/api/models/org/tiny/tree/"):
            self._send_json([_entry(name, content) for name, content in FILES.items()])
        elif path.startswith("/api/models/org/tiny"):
            self._send_json({"id": "org/tiny", "sha": SHA, "siblings": [{"rfilename": name} for name in FILES]})
        else:
            self._send(404, b"", with_body, **{"X-Error-Code": "RepoNotFound"})

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), True, **{"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, with_body: bool, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}


class Silent:
    def stage(self, title: str, total_bytes: int | None = None) -> None: ...

    def reached(self, done_bytes: int) -> None: ...


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_hub_model_comes_without_code_pickles_and_second_copies(endpoint: str, tmp_path: Path) -> None:
    download_from_hub("org/tiny", tmp_path, endpoint=endpoint)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"}


def test_a_pulled_hub_model_resolves(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, folder: Path) -> None:
        download_from_hub(name, folder, endpoint=endpoint)

    monkeypatch.setattr(pull_module, "download_from_hub", download)
    pulled = pull("org/tiny", tmp_path, Silent())
    assert pulled == resolve("org/tiny", tmp_path)


def test_a_model_the_hub_does_not_have_is_not_found(endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="org/other"):
        download_from_hub("org/other", tmp_path, endpoint=endpoint)


@pytest.mark.timeout(30)
def test_no_hub_is_told_quickly(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Unavailable, match=r"cannot get org/tiny from the hub.*local folder"):
        download_from_hub("org/tiny", tmp_path, endpoint=f"http://127.0.0.1:{port}")
