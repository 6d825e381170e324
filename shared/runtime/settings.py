"""Settings of a process, read once at its entry point: defaults < TOML file < environment < flags.

The environment has `BATON_<KEY>` for all services and `BATON_<SERVICE>_<KEY>` for one; a file has keys at the top and
in a table named after the service. A key that no service knows is an error; one that only another service knows is
that service's business, so that one file and one environment can serve the whole fleet.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from shared.errors import ConfigError
from shared.runtime.flags import config_flag, flag_values
from shared.runtime.options import ENVIRONMENT_PREFIX, Option, plain
from shared.runtime.setting_names import CONFIG_KEY, SettingNames, variable

S = TypeVar("S", bound=msgspec.Struct)


def process_environment() -> Mapping[str, str]:
    """The environment of this process."""
    return os.environ


def cache_folder(cache_dir: str, environ: Mapping[str, str] | None = None) -> Path:
    """Where pulled models are kept: the setting, or `baton` in the user's cache folder."""
    environ = process_environment() if environ is None else environ
    if cache_dir:
        return Path(cache_dir).expanduser()
    base = environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "baton"


def config_file(argv: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """The settings file that flags or environment name."""
    return config_flag(argv) or environ.get(variable(CONFIG_KEY)) or None


def load(
    kind: type[S],
    *,
    service: str,
    argv: Sequence[str],
    environ: Mapping[str, str] | None = None,
    others: Mapping[str, type[msgspec.Struct]] | None = None,
    other_variables: Collection[str] = (),
    prog: str = "",
    description: str = "",
    positional: str = "",
) -> S:
    """The settings of `service`.

    `others` are the settings of the other services by name, `other_variables` further names that may stand in the
    environment, `positional` the key that an argument without a flag sets.

    Raises ConfigError for what is unknown, missing or of the wrong type; SystemExit(0) after `--help`.
    """
    environ = process_environment() if environ is None else environ
    names = SettingNames(service, kind, others or {}, other_variables)
    flags = flag_values(names, argv, prog or f"baton {service}", description, positional)
    flags.pop(CONFIG_KEY, None)
    config = config_file(argv, environ)
    values = dict(_file_values(names, Path(config))) if config else {}
    values.update(_environment_values(names, environ))
    values.update((key, _flag_value(names.options[key], value)) for key, value in flags.items())
    return _build(kind, names.options, values)


def _flag_value(option: Option, value: str | bool) -> object:
    return option.from_text(value, option.flag) if isinstance(value, str) else value


def _environment_values(names: SettingNames, environ: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    own_prefix = variable(f"{names.service}_")
    ours = [name for name in environ if name.startswith(ENVIRONMENT_PREFIX)]
    for name in sorted(ours, key=lambda name: name.startswith(own_prefix)):
        option = names.by_variable(name)
        if option is not None:
            yield option.key, option.from_text(environ[name], f"environment variable {name}")


def _file_values(names: SettingNames, path: Path) -> Iterator[tuple[str, object]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read settings from {path}: {error}", param=CONFIG_KEY) from error
    tables = {name: content.pop(name) for name in names.services if isinstance(content.get(name), dict)}
    yield from _table_values(names, content, str(path), own_table=False)
    yield from _table_values(names, tables.get(names.service, {}), f"{path} [{names.service}]", own_table=True)


def _table_values(
    names: SettingNames, table: Mapping[str, Any], source: str, *, own_table: bool
) -> Iterator[tuple[str, object]]:
    for key, value in _flat(table):
        option = names.by_key(key, source, own_table=own_table)
        if option is not None:
            yield option.key, option.from_value(value, f"{source}: {key}")


def _flat(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """`{nats: {url: u, token: t}}` as `nats: u, nats_token: t`."""
    for key, value in table.items():
        if not isinstance(value, dict):
            yield key, value
            continue
        for inner_key, inner in value.items():
            yield (key if inner_key == "url" else f"{key}_{inner_key}"), inner


def _build(kind: type[S], options: Mapping[str, Option], values: Mapping[str, object]) -> S:
    missing = [option.flag for option in options.values() if option.required and option.key not in values]
    if missing:
        raise ConfigError(f"required: {', '.join(missing)}", param=missing[0].removeprefix("--"))
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, name = options[key].path
        table = tree
        for parent in parents:
            table = table.setdefault(parent, {})
        table[name] = value
    try:
        return _construct(kind, tree)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _construct(kind: type[S], tree: Mapping[str, Any]) -> S:
    """Build `kind` of converted values; a nested struct starts from the default of its field."""
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.name not in tree:
            continue
        value = tree[field.name]
        inner = plain(field.type)
        if isinstance(field.default, msgspec.Struct):
            value = msgspec.structs.replace(field.default, **value)
        elif isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            value = _construct(inner, value)
        values[field.name] = value
    return kind(**values)
