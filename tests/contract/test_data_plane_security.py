"""The data plane is let in by the servers that let the control connection in: tokens, users, keys, JWTs, TLS."""

from __future__ import annotations

import asyncio
import base64
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import nkeys
import pytest
from bus_servers import RestartableServer

from shared.bus.connection import Bus
from shared.bus.data_plane.connection import DataPlane
from shared.bus.settings import BusSettings
from shared.runtime.tasks import Tasks

pytestmark = pytest.mark.timeout(30)

Serve = Callable[[str], Awaitable[RestartableServer]]


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    async with Tasks("data plane test") as owned:
        yield owned


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Starts a server with more configuration."""
    started: list[RestartableServer] = []

    async def serve_with(configuration: str) -> RestartableServer:
        started.append(RestartableServer(tmp_path, configuration))
        await started[-1].start()
        return started[-1]

    yield serve_with
    for server in started:
        await server.stop()


async def is_let_in(settings: BusSettings, tasks: Tasks) -> bool:
    """Whether a large message makes its way there and back. The control connection's client is the reference."""
    bus = await Bus.connect(settings, name="reference", spawn=tasks.start)
    await bus.close()
    plane = await DataPlane.connect(settings, name="test", spawn=tasks.start)
    heard: asyncio.Queue[int] = asyncio.Queue()
    await plane.listen("subject", lambda _subject, data: heard.put_nowait(len(data)))
    for _ in range(4):
        await plane.publish_parts("subject", b"header", bytes(1 << 20))
    arrived = [await heard.get() for _ in range(4)]
    await plane.close()
    return arrived == [(1 << 20) + 6] * 4


async def is_kept_out(settings: BusSettings, tasks: Tasks) -> bool:
    connecting = tasks.start(DataPlane.connect(settings, name="test", spawn=tasks.start), name="connect")
    done, _ = await asyncio.wait({connecting}, timeout=0.5)
    connecting.cancel()
    await asyncio.wait({connecting})
    return not done


async def test_a_token(serve: Serve, tasks: Tasks) -> None:
    server = await serve("authorization { token: secret }\n")
    assert await is_let_in(BusSettings(url=server.url, token="secret"), tasks)
    assert await is_let_in(BusSettings(url=server.url.replace("//", "//secret@")), tasks)
    assert await is_kept_out(BusSettings(url=server.url, token="other"), tasks)
    assert await is_kept_out(BusSettings(url=server.url), tasks)


async def test_a_user_in_the_url(serve: Serve, tasks: Tasks) -> None:
    server = await serve("authorization { user: baton, password: word }\n")
    assert await is_let_in(BusSettings(url=server.url.replace("//", "//baton:word@")), tasks)


async def test_an_nkey(serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    seed = new_seed(nkeys.PREFIX_BYTE_USER, 1)
    server = await serve(f"authorization {{ users: [{{ nkey: {public_key(seed)} }}] }}\n")
    file = tmp_path / "user.nk"
    file.write_bytes(seed)
    assert await is_let_in(BusSettings(url=server.url, nkey_seed_file=str(file)), tasks)
    file.write_bytes(new_seed(nkeys.PREFIX_BYTE_USER, 2))
    assert await is_kept_out(BusSettings(url=server.url, nkey_seed_file=str(file)), tasks)


async def test_a_credentials_file(serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    operator = new_seed(nkeys.PREFIX_BYTE_OPERATOR, 1)
    account = new_seed(nkeys.PREFIX_BYTE_ACCOUNT, 2)
    user = new_seed(nkeys.PREFIX_BYTE_USER, 3)
    unlimited = {"subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1}
    account_jwt = jwt(operator, account, {"type": "account", "version": 2, "limits": unlimited | {"wildcards": True}})
    server = await serve(
        f"operator: {jwt(operator, operator, {'type': 'operator', 'version': 2})}\n"
        f"resolver: MEMORY\nresolver_preload: {{ {public_key(account)}: {account_jwt} }}\n"
        # With operators JetStream wants a system account, which is none of this test's business.
        "jetstream: disabled\n"
    )
    user_jwt = jwt(account, user, {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1})
    file = tmp_path / "user.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.decode()}\n------END USER NKEY SEED------\n"
    )
    assert await is_let_in(BusSettings(url=server.url, credentials_file=str(file)), tasks)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here")
async def test_tls_with_certificates_of_both_sides(serve: Serve, tasks: Tasks, tmp_path: Path) -> None:
    authority = certify(tmp_path)
    server = await serve(
        f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key", '
        f'ca_file: "{authority}", verify: true }}\n'
    )
    ours = {"tls_cert_file": f"{tmp_path}/client.pem", "tls_key_file": f"{tmp_path}/client.key"}
    assert await is_let_in(BusSettings(url=server.url, tls_ca_file=str(authority), **ours), tasks)
    assert await is_kept_out(BusSettings(url=server.url, tls_ca_file=str(authority)), tasks)
    assert await is_kept_out(BusSettings(url=server.url), tasks)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here")
async def test_where_tls_is_asked_for_a_server_without_it_gets_no_credentials(
    serve: Serve, tasks: Tasks, tmp_path: Path
) -> None:
    server = await serve("")
    assert await is_kept_out(BusSettings(url=server.url, tls_ca_file=str(certify(tmp_path)), token="secret"), tasks)
    assert await is_kept_out(BusSettings(url=server.url.replace("nats:", "tls:")), tasks)


def new_seed(kind: int, number: int) -> bytes:
    seed: bytes = nkeys.encode_seed(bytes([number]) * 32, kind)
    return seed


def public_key(seed: bytes) -> str:
    key: bytes = nkeys.from_seed(bytearray(seed)).public_key
    return key.decode()


def jwt(issuer: bytes, subject: bytes, claims: dict[str, object]) -> str:
    """A NATS JWT: `issuer` says of `subject` what is in `claims`."""
    head = {"typ": "JWT", "alg": "ed25519-nkey"}
    body = {"jti": "1", "iat": 1, "iss": public_key(issuer), "sub": public_key(subject), "name": "x", "nats": claims}
    signed = ".".join(_base64(msgspec.json.encode(part)) for part in (head, body))
    return f"{signed}.{_base64(nkeys.from_seed(bytearray(issuer)).sign(signed.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def certify(folder: Path) -> Path:
    """An authority, and certificates of a server on loopback and of a client."""
    authority = folder / "ca.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    _openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        _openssl(folder, "req", *key[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-set_serial", str(len(name)), "-days", "1"]
        _openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", *signing, "-extfile", "extensions", "-out", f"{name}.pem"
        )
    return authority


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
