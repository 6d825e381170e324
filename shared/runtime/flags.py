"""Settings as command-line flags, with a `--help` that shows what each means and its default."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from shared.errors import ConfigError
from shared.runtime.options import Option
from shared.runtime.setting_names import CONFIG_KEY, SettingNames


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def flag_values(
    names: SettingNames, argv: Sequence[str], prog: str, description: str, positional: str = ""
) -> dict[str, str | bool]:
    """What `argv` sets, by key, not yet converted; an argument that is no flag sets `positional`.

    Raises ConfigError; SystemExit(0) after `--help`.
    """
    parser = _Parser(prog=prog, description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    _add_config(parser)
    for option in names.options.values():
        _add_flag(parser, option)
    if positional:
        _add_positional(parser, names.options[positional])
    found, rest = parser.parse_known_args(list(argv))
    if rest:
        raise names.unknown_argument(rest[0])
    return vars(found)


def config_flag(argv: Sequence[str]) -> str | None:
    """The settings file that `argv` names, whatever else is in there."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    _add_config(parser)
    config: str | None = parser.parse_known_args(list(argv))[0].config
    return config


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(f"--{CONFIG_KEY}", metavar="FILE", help="TOML file with settings")


def _add_flag(parser: argparse.ArgumentParser, option: Option) -> None:
    text = _help(option).replace("%", "%%")
    if option.is_bool:
        parser.add_argument(option.flag, dest=option.key, action=argparse.BooleanOptionalAction, help=text)
    else:
        metavar = option.key.rpartition("_")[2].upper()
        parser.add_argument(option.flag, dest=option.key, metavar=metavar, help=text)


def _add_positional(parser: argparse.ArgumentParser, option: Option) -> None:
    parser.add_argument(option.key, nargs="?", default=argparse.SUPPRESS, help=f"same as {option.flag}")


def _help(option: Option) -> str:
    if option.required:
        return f"{option.doc} (required)".strip()
    if option.default in ("", (), None):
        return option.doc
    return f"{option.doc} (default: {option.default})".strip()
