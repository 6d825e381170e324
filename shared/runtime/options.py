"""The options of a settings struct: one per field, with its names on the command line, in a file, in the environment.

A field that is itself a struct gives one option per field of it, prefixed with its name; that struct's `url` takes the
bare name, so that `nats: BusSettings` is `--nats`, `--nats-token`, `BATON_NATS`, `nats = "..."`.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from shared.errors import ConfigError

ENVIRONMENT_PREFIX = "BATON_"

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", re.IGNORECASE)
_EXPONENTS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class Option(msgspec.Struct, frozen=True):
    """One setting. `key` is its flat name (`nats_token`); `path` leads to it inside the struct."""

    key: str
    path: tuple[str, ...]
    type: Any
    default: Any
    doc: str

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    @property
    def required(self) -> bool:
        return self.default is msgspec.NODEFAULT

    @property
    def is_bool(self) -> bool:
        return plain(self.type) is bool

    def from_text(self, text: str, source: str) -> object:
        """The value in a flag or an environment variable. Raises ConfigError that names `source`."""
        value: object = text
        if _is_sequence(self.type):
            value = [part.strip() for part in text.split(",") if part.strip()]
        return self._convert(value, source, strict=False)

    def from_value(self, value: object, source: str) -> object:
        """The value in a file. Raises ConfigError that names `source`."""
        return self._convert(value, source, strict=True)

    def _convert(self, value: object, source: str, *, strict: bool) -> object:
        if self.key.endswith("_bytes") and isinstance(value, str):
            value = size_bytes(value, source)
        try:
            return msgspec.convert(value, type=self.type, strict=strict)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{source}: {error}, got {value!r}", param=self.key) from error


def options_of(kind: type[msgspec.Struct]) -> dict[str, Option]:
    """All options of `kind` by key, in the order of the fields."""
    return {option.key: option for option in _walk(kind, None, (), "")}


def _walk(
    kind: type[msgspec.Struct], defaults: msgspec.Struct | None, path: tuple[str, ...], prefix: str
) -> Iterator[Option]:
    """`defaults` is what the field that holds this struct has by default."""
    for field in msgspec.structs.fields(kind):
        default = _default(field) if defaults is None else getattr(defaults, field.name)
        inner = plain(field.type)
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            nested = default if isinstance(default, msgspec.Struct) else None
            yield from _walk(inner, nested, (*path, field.name), f"{prefix}{field.name}_")
            continue
        key = prefix.removesuffix("_") if prefix and field.name == "url" else prefix + field.name
        yield Option(key, (*path, field.name), field.type, default, _doc(field.type))


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def size_bytes(text: str, source: str) -> int:
    """`512MiB`, `1.5 GB` or `4096` as bytes. Raises ConfigError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{source}: {text!r} is not a size; write it as 4096, 64KiB, 512MiB or 2GB")
    number, unit = match.group(1), (match.group(2) or "").lower()
    base = 1024 if unit.endswith("i") else 1000
    return int(float(number) * base ** _EXPONENTS[unit.removesuffix("i")])


def _doc(kind: Any) -> str:
    if typing.get_origin(kind) is Annotated:
        for meta in kind.__metadata__:
            if isinstance(meta, msgspec.Meta) and meta.description:
                return meta.description
    return ""


def plain(kind: Any) -> Any:
    """A type without its annotations."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def _is_sequence(kind: Any) -> bool:
    return typing.get_origin(plain(kind)) in (tuple, list)
