"""Settings: precedence of their sources, names, conversion, and errors that name the nearest key."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from shared.bus.settings import BusSettings
from shared.errors import ConfigError
from shared.runtime.settings import load


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    nats: BusSettings = BusSettings()
    chunk_tokens: Annotated[int, Meta(ge=1, description="tokens per chunk, 100% yours")] = 256
    kv_memory_bytes: int = 1024
    ratio: float = 0.5
    warm_up: bool = True
    colour: Colour = Colour.RED
    cores: tuple[int, ...] = ()
    model: str = ""


class Other(msgspec.Struct, frozen=True, kw_only=True):
    http_port: int = 8000
    chunk_tokens: int = 1


OTHERS: dict[str, type[msgspec.Struct]] = {"gateway": Other}


def read(*argv: str, env: dict[str, str] | None = None, **kwargs: Any) -> Settings:
    return load(Settings, service="prefill", argv=argv, environ=env or {}, others=OTHERS, **kwargs)


def write(folder: Path, text: str) -> str:
    path = folder / "baton.toml"
    path.write_text(text)
    return str(path)


def test_defaults_stand_when_nothing_is_said() -> None:
    assert read() == Settings()


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, 'chunk_tokens = 1\nratio = 0.1\nmodel = "file"\n')
    env = {"BATON_CONFIG": config, "BATON_RATIO": "0.2", "BATON_MODEL": "environment"}
    settings = read("--model", "flag", env=env)
    assert (settings.chunk_tokens, settings.ratio, settings.model) == (1, 0.2, "flag")


def test_the_services_own_variable_beats_the_common_one() -> None:
    env = {"BATON_PREFILL_CHUNK_TOKENS": "7", "BATON_CHUNK_TOKENS": "9", "BATON_GATEWAY_CHUNK_TOKENS": "3"}
    assert read(env=env).chunk_tokens == 7


def test_the_services_own_table_beats_the_top_of_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, "chunk_tokens = 1\n[prefill]\nchunk_tokens = 2\n[gateway]\nhttp_port = 1\n")
    assert read("--config", config).chunk_tokens == 2


@pytest.mark.parametrize("text", ['nats = "nats://a"\nnats_token = "t"\n', '[nats]\nurl = "nats://a"\ntoken = "t"\n'])
def test_nested_settings_are_written_flat_or_as_a_table(tmp_path: Path, text: str) -> None:
    assert read("--config", write(tmp_path, text)).nats == BusSettings(url="nats://a", token="t")


def test_nested_settings_are_prefixed_flags_and_variables() -> None:
    settings = read("--nats", "nats://a", env={"BATON_NATS_CREDENTIALS_FILE": "/c"})
    assert settings.nats == BusSettings(url="nats://a", credentials_file="/c")


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (["--cores", "2,3"], "cores", (2, 3)),
        (["--cores", ""], "cores", ()),
        (["--no-warm-up"], "warm_up", False),
        (["--colour", "blue"], "colour", Colour.BLUE),
        (["--kv-memory-bytes", "512MiB"], "kv_memory_bytes", 512 << 20),
        (["--kv-memory-bytes", "1.5 GB"], "kv_memory_bytes", 1_500_000_000),
        (["--kv-memory-bytes=4096"], "kv_memory_bytes", 4096),
    ],
)
def test_text_becomes_the_fields_type(flags: list[str], field: str, value: object) -> None:
    assert getattr(read(*flags), field) == value


def test_a_file_may_write_a_size_with_its_unit(tmp_path: Path) -> None:
    assert read("--config", write(tmp_path, 'kv_memory_bytes = "2KiB"')).kv_memory_bytes == 2048


def test_a_false_in_the_environment_is_false() -> None:
    assert read(env={"BATON_WARM_UP": "false"}).warm_up is False


@pytest.mark.parametrize(
    ("flags", "env", "message"),
    [
        (["--chunk-token", "3"], {}, "'--chunk-token' is unknown; did you mean --chunk-tokens?"),
        ([], {"BATON_CHUNK_TOKEN": "3"}, "did you mean BATON_CHUNK_TOKENS?"),
        ([], {"BATON_CHUNK_TOKENS": "many"}, "environment variable BATON_CHUNK_TOKENS"),
        (["--chunk-tokens", "0"], {}, "--chunk-tokens: Expected `int` >= 1"),
        (["--kv-memory-bytes", "2 apples"], {}, "is not a size"),
        (["--colour", "green"], {}, "--colour"),
        (["stray"], {}, "'stray' is unknown"),
        (["--model"], {}, "expected one argument"),
        (["--config", "/nowhere.toml"], {}, "cannot read settings from /nowhere.toml"),
    ],
)
def test_what_is_wrong_is_named(flags: list[str], env: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(*flags, env=env)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chunk_tokenz = 1", "did you mean chunk_tokens?"),
        ("[prefill]\nhttp_port = 1", "key 'http_port' is unknown"),
        ("[prefil]\nmodel = 'x'", "key 'prefil_model' is unknown"),
        ("[nats]\ntokens = 'x'", "did you mean nats_token?"),
        ("chunk_tokens = '3'", "Expected `int`"),
        ("chunk_tokens = ", "cannot read settings"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read("--config", write(tmp_path, text))
    assert message in caught.value.message


def test_what_only_another_service_knows_is_left_to_it(tmp_path: Path) -> None:
    config = write(tmp_path, "http_port = 1\n")
    env = {"BATON_HTTP_PORT": "1", "BATON_GATEWAY_HTTP_PORT": "2", "BATON_TORCH_INDEX": "x", "HOME": "/"}
    assert read("--config", config, env=env, other_variables=["BATON_TORCH_INDEX"]) == Settings()


def test_a_required_setting_that_is_missing_is_named() -> None:
    class Strict(msgspec.Struct, frozen=True, kw_only=True):
        model: str

    with pytest.raises(ConfigError, match="required: --model"):
        load(Strict, service="x", argv=[], environ={})


@pytest.mark.parametrize("argv", [["hello", "--ratio", "1"], ["--ratio", "1", "hello"], ["--model", "hello"]])
def test_an_argument_without_a_flag_may_stand_anywhere(argv: list[str]) -> None:
    assert read(*argv, positional="model").model == "hello"


def test_help_shows_what_a_setting_means_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read("--help")
    assert ended.value.code == 0
    assert "tokens per chunk, 100% yours (default: 256)" in capsys.readouterr().out
