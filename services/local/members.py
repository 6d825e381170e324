"""Which processes a local Baton consists of: their command lines and cores. `supervisor` runs them."""

from __future__ import annotations

import sys

import msgspec

from services.local.cores import Machine, Share
from services.local.settings import UpSettings
from shared.bus.settings import BusSettings
from shared.core import Role


class Member(msgspec.Struct, frozen=True):
    """One service process: its name on the bus, and what it is started with."""

    name: str
    role: Role
    arguments: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "services.cli", self.role.value, *self.arguments]


def members(
    settings: UpSettings, nats: BusSettings, machine: Machine, *, suffix: str = "", config: str | None = None
) -> list[Member]:
    """All of them, gateway first. `suffix` keeps their names apart from those of others on the same NATS."""
    common = [*_file(config), *_nats_flags(nats), *_changed(settings, "log_level", "log_format", "drain_timeout_s")]
    model = _changed(settings, "model", "cache_dir")
    worker = [*model, *_changed(settings, "engine", "dtype", "device")]
    door = ["--host", settings.http_host, "--port", str(settings.http_port)]
    shares = machine.shares(settings.prefill + settings.decode, settings.threads)

    def member(role: Role, number: int, *arguments: str) -> Member:
        name = f"{role.value}-{number}{suffix}"
        return Member(name, role, ("--id", name, *common, *arguments))

    return [
        member(Role.GATEWAY, 0, *door, *model),
        member(Role.SCHEDULER, 0),
        *(member(Role.PREFILL, number, *worker, *_flags(settings, next(shares))) for number in range(settings.prefill)),
        *(member(Role.DECODE, number, *worker, *_flags(settings, next(shares))) for number in range(settings.decode)),
    ]


def _flags(settings: UpSettings, share: Share) -> list[str]:
    """Cores of one worker; its threads, where asked for or not one for each. A GPU's worker needs one, on any core."""
    if settings.device != "cpu":
        return ["--threads", str(settings.threads or 1)]
    said = settings.threads or share.threads != len(share.cpus)
    threads = ["--threads", str(share.threads)] if said else []
    return [*threads, *(["--cores", ",".join(map(str, share.cpus))] if share.cpus else [])]


def _file(config: str | None) -> list[str]:
    return ["--config", config] if config else []


def _nats_flags(nats: BusSettings) -> list[str]:
    """All but the token, which must not show in the list of processes: the child's environment has it."""
    files = ("credentials_file", "nkey_seed_file", "tls_ca_file", "tls_cert_file", "tls_key_file")
    given = [(name, getattr(nats, name)) for name in files if getattr(nats, name)]
    return ["--nats", nats.url, *(part for name, value in given for part in (f"--nats-{_dashed(name)}", value))]


def _changed(settings: UpSettings, *names: str) -> list[str]:
    """Flags of the settings that are not the default; what is, the services' own settings decide."""
    defaults = UpSettings()
    changed = [name for name in names if getattr(settings, name) != getattr(defaults, name)]
    return [part for name in changed for part in (f"--{_dashed(name)}", str(getattr(settings, name)))]


def _dashed(name: str) -> str:
    return name.replace("_", "-")
