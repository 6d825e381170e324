"""Who we are to a NATS server: the fields of CONNECT that answer its challenge.

Files are read anew for every connection, so that credentials can be renewed in place.
"""

from __future__ import annotations

import base64
import itertools
from pathlib import Path

import nkeys

from shared.bus.data_plane.server_info import ServerInfo
from shared.bus.data_plane.servers import Address
from shared.bus.settings import BusSettings
from shared.errors import ConfigError

_JWT_BEGINS = b"BEGIN NATS USER JWT"
_SEED_BEGINS = b"BEGIN USER NKEY SEED"


def identify(settings: BusSettings, info: ServerInfo, address: Address) -> dict[str, str]:
    """The fields for this server. Keys sign its nonce; a token may go with them; a url's user comes last.

    Raises ConfigError for files that are no credentials, OSError for files that cannot be read.
    """
    token = {"auth_token": settings.token} if settings.token else {}
    if info.nonce and settings.credentials_file:
        lines = Path(settings.credentials_file).read_bytes().splitlines()
        return _signed(_after(_SEED_BEGINS, lines), info) | {"jwt": _after(_JWT_BEGINS, lines).decode()} | token
    if info.nonce and settings.nkey_seed_file:
        seed = Path(settings.nkey_seed_file).read_bytes().strip()
        return _signed(seed, info, with_key=True) | token
    if token or address.user is None:
        return token
    if address.password is None:
        return {"auth_token": address.user}
    return {"user": address.user, "pass": address.password}


def _signed(seed: bytes, info: ServerInfo, *, with_key: bool = False) -> dict[str, str]:
    try:
        pair = nkeys.from_seed(bytearray(seed))
    except (nkeys.NkeysError, ValueError, TypeError) as error:
        raise ConfigError(f"the NATS seed cannot be used: {type(error).__name__}") from error
    try:
        signature = {"sig": base64.b64encode(pair.sign(info.nonce.encode())).decode()}
        return signature | ({"nkey": pair.public_key.decode()} if with_key else {})
    finally:
        pair.wipe()


def _after(marker: bytes, lines: list[bytes]) -> bytes:
    """The line after the one that holds `marker`."""
    for line, following in itertools.pairwise(lines):
        if marker in line:
            return following.strip()
    raise ConfigError(f"the NATS credentials file has no {marker.decode().removeprefix('BEGIN ')}")
