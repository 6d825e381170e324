"""The processes of a local Baton: names, flags, cores."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from services.cli_settings import KINDS, load_settings
from services.local.cores import Machine
from services.local.members import Member, members
from services.local.settings import UpSettings
from shared.bus.settings import BusSettings
from shared.core import Role
from shared.runtime.process_settings import EngineKind

NATS = BusSettings(url="nats://127.0.0.1:1")


def of(cpus: Iterable[int]) -> Machine:
    """A machine of cores of one thread."""
    return Machine(tuple((cpu,) for cpu in cpus))


def crew(cores: Iterable[int] = (0, 1), nats: BusSettings = NATS, **changes: object) -> dict[str, Member]:
    settings = UpSettings(**changes)  # type: ignore[arg-type]
    return {member.name: member for member in members(settings, nats, of(cores))}


def flag(member: Member, name: str) -> str | None:
    arguments = list(member.arguments)
    return arguments[arguments.index(name) + 1] if name in arguments else None


def test_there_is_one_gateway_one_scheduler_and_as_many_workers_as_asked() -> None:
    assert list(crew(prefill=2, decode=1)) == ["gateway-0", "scheduler-0", "prefill-0", "prefill-1", "decode-0"]


def test_workers_take_turns_on_the_cores() -> None:
    found = crew(cores=(4, 6, 7), prefill=2, decode=2)
    cores = [flag(found[name], "--cores") for name in ("prefill-0", "prefill-1", "decode-0", "decode-1")]
    assert cores == ["4", "6", "7", "4"]


def test_a_worker_gets_a_core_for_each_of_its_threads() -> None:
    for found, threads in ((crew(cores=range(4)), None), (crew(cores=range(4), threads=2), "2")):
        assert [flag(found[name], "--cores") for name in ("prefill-0", "decode-0")] == ["0,1", "2,3"]
        assert [flag(found[name], "--threads") for name in ("prefill-0", "decode-0")] == [threads, threads]


@pytest.mark.parametrize(("asked", "threads"), [(0, 3), (2, 2)])
def test_threads_asked_for_here_count_more_than_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, asked: int, threads: int
) -> None:
    monkeypatch.setenv("BATON_DECODE_THREADS", "3")
    decode = crew(cores=range(4), threads=asked)["decode-0"]
    settings = load_settings(KINDS["decode"], "decode", decode.arguments)
    assert settings.engine_threads == threads  # type: ignore[attr-defined]


def test_threads_are_said_where_the_cores_do_not_say_them() -> None:
    """Elsewhere a setting of one service alone counts."""
    two_threads_a_core = Machine(((0, 2), (1, 3)))
    for machine in (two_threads_a_core, Machine(two_threads_a_core.cores, quota=2.5)):
        found = {member.name: member for member in members(UpSettings(), NATS, machine)}
        assert flag(found["decode-0"], "--threads") == "1"
    assert flag(crew(cores=range(4), device="cuda")["decode-0"], "--threads") == "1"


@pytest.mark.parametrize("changes", [{"device": "cuda"}, {"threads": 3}])
def test_a_worker_is_not_pinned_where_that_makes_no_sense(changes: dict[str, object]) -> None:
    assert flag(crew(**changes)["prefill-0"], "--cores") is None  # type: ignore[arg-type]


def test_a_suffix_keeps_two_locals_on_one_nats_apart() -> None:
    found = members(UpSettings(), NATS, of((0,)), suffix="-ab12")
    assert {flag(member, "--id") for member in found} == {
        "gateway-0-ab12",
        "scheduler-0-ab12",
        "prefill-0-ab12",
        "decode-0-ab12",
    }


def test_the_nats_token_is_on_no_command_line() -> None:
    nats = BusSettings(url="nats://a", token="secret", credentials_file="/c")
    found = crew(nats=nats)["decode-0"]
    assert "secret" not in " ".join(found.command)
    assert flag(found, "--nats-credentials-file") == "/c"


def test_defaults_are_left_to_the_services() -> None:
    assert flag(crew()["prefill-0"], "--model") is None
    assert flag(crew(model="/m")["prefill-0"], "--model") == "/m"


@pytest.mark.parametrize("config", [None, "/dev/null"])
def test_every_service_accepts_its_flags(config: str | None) -> None:
    settings = UpSettings(model="/m", cache_dir="/c", engine=EngineKind.FAKE, dtype="float32", threads=2)
    for member in members(settings, BusSettings(url="nats://a", tls_ca_file="/ca"), of((0, 1)), config=config):
        loaded = load_settings(KINDS[member.role.value], member.role.value, member.arguments)
        assert loaded.id == member.name  # type: ignore[attr-defined]


def test_the_gateway_comes_first() -> None:
    assert members(UpSettings(), NATS, of((0,)))[0].role is Role.GATEWAY
