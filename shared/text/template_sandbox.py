"""The jinja environment chat templates run in: the dialect of the transformers library, fenced in.

A template comes with a model and is not trusted with more than text. It sees plain data only; it cannot reach Python's
internals (jinja's sandbox) or files (there is no loader); and every loop turn and every call it makes checks a
deadline, so that it cannot run for ever. The size of single values is bounded where a short template could make a
huge one (`*`, `**`, output). What remains: a hostile template can still use much memory through filters.
Knows no messages and no model. `chat_template.py` calls it.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes, parser
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_LARGEST_SIZE = 1 << 20
_LOOP_FILTER = "_within_deadline"

_deadline_s = contextvars.ContextVar("chat_template_deadline_s", default=float("inf"))


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let templates rendered inside run for at most `seconds`; beyond, they raise jinja2's SecurityError."""
    token = _deadline_s.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline_s.reset(token)


def template_environment() -> jinja2.Environment:
    """A fresh environment with the filters, globals and tags that chat templates expect."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.filters[_LOOP_FILTER] = _within_deadline
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["namespace"] = _PlainNamespace
    environment.globals["dict"] = _PlainDict()
    return environment


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja's sandbox, with a deadline on loops and calls and a bound on products and powers."""

    intercepted_binops = frozenset({"*", "**"})

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        for loop in source.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _LOOP_FILTER, [], [], None, None, lineno=loop.lineno)
        return super()._generate(source, *args, **kwargs)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        _check_deadline()
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and _power_bits(left, right) > _LARGEST_SIZE:
            raise SecurityError("the chat template raises to too large a power")
        if operator == "*" and max(_product_size(left, right), _product_size(right, left)) > _LARGEST_SIZE:
            raise SecurityError("the chat template repeats a value too often")
        return super().call_binop(context, operator, left, right)


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's part for training; for serving its body is all that counts."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: parser.Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return caller()


class _PlainNamespace(Namespace):
    """jinja's namespace without names that could shadow Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


class _PlainDict:
    """`dict(...)` for templates, without the attributes of the type itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template cannot set {name!r} on a namespace")


def _check_deadline() -> None:
    if time.monotonic() > _deadline_s.get():
        raise SecurityError("the chat template takes too long")


@jinja2.pass_context
def _within_deadline(_: Context, items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _check_deadline()
        yield item


def _product_size(value: object, factor: object) -> int:
    """Length of `value * factor` where that is a repeated sequence; its bits where both are integers."""
    if not isinstance(factor, int):
        return 0
    if isinstance(value, str | bytes | list | tuple):
        return len(value) * factor
    return value.bit_length() + factor.bit_length() if isinstance(value, int) else 0


def _power_bits(base: object, exponent: object) -> int:
    return base.bit_length() * abs(exponent) if isinstance(base, int) and isinstance(exponent, int) else 0


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike jinja's own, without HTML escapes: templates write JSON for a model, not for a page."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateRuntimeError(message)


def _strftime_now(pattern: str) -> str:
    # Local time, as everywhere chat templates are rendered: they tell the model the date of its user.
    return datetime.now().strftime(pattern)
