"""Reads a request body into a typed struct, or says in a sentence which parameter is wrong.

Knows no parameter by name: the structs, the ranges and what is not supported are the caller's tables. `params.py`
calls it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple, NoReturn, TypeVar

import msgspec

from shared.errors import InvalidRequest

Body = TypeVar("Body", bound=msgspec.Struct)

_SHOWN_CHARACTERS = 64
_SHOWN_BELOW = 2**64
_TYPE_ERROR = re.compile(
    r"Expected `(?P<expected>[^`]+)`, got `(?P<got>[^`]+)` - at (?P<key>`key` in )?`(?P<path>[^`]+)`"
)
_MISSING_FIELD = re.compile(r"Object missing required field `(?P<field>[^`]+)`(?: - at `(?P<path>[^`]+)`)?")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<field>.*)` - at `(?P<path>[^`]+)`", re.DOTALL)
_PATH = re.compile(r"`\$\.(?P<path>[^`]+)`")
_WORDS = {
    "int": "an integer",
    "float": "a number",
    "decimal": "a decimal number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}


class Range(NamedTuple):
    """Both ends belong to it. NaN is in no range."""

    low: float
    high: float


def read_body(
    body: object, kind: type[Body], *, ranges: Mapping[str, Range], no_ops: Mapping[str, Collection[object]]
) -> Body:
    """`body`, a parsed JSON object, as a `kind`; null counts as absent.

    `no_ops` are parameters that exist elsewhere and are not supported here, each with the values that ask for nothing.
    Raises InvalidRequest with `param` for anything unknown, unsupported, of a wrong type or out of range.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("the request body must be a JSON object")
    fields = {str(name): value for name, value in body.items() if value is not None}
    known = kind.__struct_fields__
    for name, value in fields.items():
        if name in no_ops:
            _check_no_op(name, value, no_ops[name])
        elif name not in known:
            _refuse_unknown(name, (*known, *no_ops))
    try:
        read = msgspec.convert({name: value for name, value in fields.items() if name not in no_ops}, kind)
    except msgspec.ValidationError as error:
        raise _explained(str(error)) from error
    for name, allowed in ranges.items():
        check_range(name, getattr(read, name, None), allowed)
    return read


def check_range(name: str, value: float | None, allowed: Range) -> None:
    """Raises InvalidRequest unless `value` is None or in `allowed`."""
    if value is None or allowed.low <= value <= allowed.high:
        return
    given = "a number of that size" if abs(value) >= _SHOWN_BELOW else f"{value}"
    raise InvalidRequest(f"{name} must be from {allowed.low} to {allowed.high}, not {given}", param=name)


def shown(text: str) -> str:
    """`text` from a client as it may stand in an error: short, and valid Unicode whatever it is."""
    return text[:_SHOWN_CHARACTERS].encode("utf-8", "backslashreplace").decode()


def _check_no_op(name: str, value: object, no_ops: Collection[object]) -> None:
    if not any(type(value) is type(no_op) and value == no_op for no_op in no_ops):
        raise InvalidRequest(f"{name} is not supported; leave it out", param=name)


def _refuse_unknown(name: str, known: Collection[str]) -> NoReturn:
    short = shown(name)
    nearest = difflib.get_close_matches(short, sorted(known), n=1, cutoff=0.0)
    raise InvalidRequest(f"unknown parameter {short!r}; the nearest known one is {nearest[0]!r}", param=short)


def _explained(error: str) -> InvalidRequest:
    """A msgspec error in the words of someone who has only seen JSON."""
    if found := _TYPE_ERROR.match(error):
        path = _plain(found["path"])
        expected, got = _in_words(found["expected"]), _in_words(found["got"].replace("float", "decimal"))
        part = "each key of " if found["key"] else "each value of " if found["path"].endswith("[...]") else ""
        return InvalidRequest(f"{part}{path} must be {expected}, not {got}", param=path)
    if found := _MISSING_FIELD.match(error):
        path = f"{_plain(found['path'])}.{found['field']}" if found["path"] else found["field"]
        return InvalidRequest(f"{path} is required", param=path)
    if found := _UNKNOWN_FIELD.match(error):
        path = f"{_plain(found['path'])}.{shown(found['field'])}"
        return InvalidRequest(f"{path} is not a known parameter", param=path)
    where = _PATH.search(error)
    path = _plain(where["path"]) if where else "the request"
    return InvalidRequest(f"{path} is not valid: {error.partition(' - at ')[0].lower()}", param=path if where else None)


def _plain(path: str) -> str:
    return path.removeprefix("$.").removesuffix("[...]")


def _in_words(types: str) -> str:
    return " or ".join(_WORDS.get(name, name) for name in types.split(" | ") if name != "null")
