"""Which credentials answer which server."""

from __future__ import annotations

import base64
from pathlib import Path

import nkeys
import pytest

from shared.bus.data_plane.credentials import identify
from shared.bus.data_plane.server_info import ServerInfo
from shared.bus.data_plane.servers import read_address
from shared.bus.settings import BusSettings
from shared.errors import ConfigError

SEED = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER)
CHALLENGE = ServerInfo(nonce="challenge")
PLAIN = ServerInfo()
HERE = read_address("nats://127.0.0.1")


def signs_the_challenge(signature: str) -> bool:
    return bool(nkeys.from_seed(bytearray(SEED)).verify(b"challenge", base64.b64decode(signature)))


def test_nothing_is_said_when_nothing_is_set() -> None:
    assert identify(BusSettings(), CHALLENGE, HERE) == {}


def test_a_token_is_sent() -> None:
    assert identify(BusSettings(token="secret"), PLAIN, HERE) == {"auth_token": "secret"}


def test_a_token_comes_before_the_user_of_the_url() -> None:
    address = read_address("nats://user:word@host")
    assert identify(BusSettings(token="secret"), PLAIN, address) == {"auth_token": "secret"}
    assert identify(BusSettings(), PLAIN, address) == {"user": "user", "pass": "word"}


def test_a_user_without_a_password_is_a_token() -> None:
    assert identify(BusSettings(), PLAIN, read_address("nats://secret@host")) == {"auth_token": "secret"}


def test_an_nkey_signs_the_challenge(tmp_path: Path) -> None:
    file = tmp_path / "user.nk"
    file.write_bytes(SEED + b"\n")
    said = identify(BusSettings(nkey_seed_file=str(file)), CHALLENGE, HERE)
    assert said["nkey"] == nkeys.from_seed(bytearray(SEED)).public_key.decode()
    assert signs_the_challenge(said["sig"])
    assert set(said) == {"nkey", "sig"}


def test_a_credentials_file_gives_jwt_and_signature(tmp_path: Path) -> None:
    file = tmp_path / "user.creds"
    file.write_bytes(
        b"-----BEGIN NATS USER JWT-----\nthe.jwt\n------END NATS USER JWT------\n\n"
        b"-----BEGIN USER NKEY SEED-----\n" + SEED + b"\n------END USER NKEY SEED------\n"
    )
    said = identify(BusSettings(credentials_file=str(file), token="too"), CHALLENGE, HERE)
    assert said["jwt"] == "the.jwt"
    assert said["auth_token"] == "too"
    assert signs_the_challenge(said["sig"])
    assert set(said) == {"jwt", "sig", "auth_token"}


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN NATS USER JWT-----\njwt", SEED[:20]])
def test_files_that_are_no_credentials_are_refused_without_being_told(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    for settings in (BusSettings(credentials_file=str(file)), BusSettings(nkey_seed_file=str(file))):
        with pytest.raises(ConfigError) as refused:
            identify(settings, CHALLENGE, HERE)
        assert SEED[:20].decode() not in str(refused.value)
