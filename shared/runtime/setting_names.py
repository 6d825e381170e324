"""Which keys and variables mean what to one service, among the services it shares a file and an environment with."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

import msgspec

from shared.errors import ConfigError
from shared.runtime.options import ENVIRONMENT_PREFIX, Option, options_of

CONFIG_KEY = "config"


def variable(key: str) -> str:
    """The environment variable of a key."""
    return ENVIRONMENT_PREFIX + key.upper()


def unknown(what: str, word: str, valid: Collection[str]) -> str:
    """A sentence that says `what` is unknown, and which of `valid` is nearest to `word`."""
    nearest = difflib.get_close_matches(word, sorted(valid), n=1, cutoff=0.5)
    return f"{what} is unknown" + (f"; did you mean {nearest[0]}?" if nearest else "")


class SettingNames:
    """The options of `service`, and what belongs to `others` (settings of the other services, by name)."""

    def __init__(
        self,
        service: str,
        kind: type[msgspec.Struct],
        others: Mapping[str, type[msgspec.Struct]],
        other_variables: Collection[str],
    ) -> None:
        self.service = service
        self.options = options_of(kind)
        self.services = {service, *others}
        foreign = {name: options_of(other) for name, other in others.items() if name != service}
        self._foreign_keys = {key for options in foreign.values() for key in options}
        self._variables = {variable(key): option for key, option in self.options.items()}
        self._variables |= {variable(f"{service}_{key}"): option for key, option in self.options.items()}
        self._foreign_variables = {
            *(variable(key) for key in (*self._foreign_keys, CONFIG_KEY)),
            *(variable(f"{name}_{key}") for name, options in foreign.items() for key in options),
            *other_variables,
        }

    def by_variable(self, name: str) -> Option | None:
        """The option an environment variable sets; None: another service's. Raises ConfigError."""
        if name in self._variables:
            return self._variables[name]
        if name in self._foreign_variables:
            return None
        valid = {*self._variables, *self._foreign_variables}
        raise ConfigError(unknown(f"environment variable {name}", name, valid), param=name)

    def by_key(self, key: str, source: str, *, own_table: bool) -> Option | None:
        """The option a key of a file sets; None: another service's. Raises ConfigError."""
        if key in self.options:
            return self.options[key]
        if key in self._foreign_keys and not own_table:
            return None
        raise ConfigError(unknown(f"{source}: key {key!r}", key, self.options), param=key)

    def unknown_argument(self, argument: str) -> ConfigError:
        """The error for an argument that is no flag."""
        flags = [option.flag for option in self.options.values()]
        return ConfigError(unknown(f"argument {argument!r}", argument.partition("=")[0], flags), param=argument)
