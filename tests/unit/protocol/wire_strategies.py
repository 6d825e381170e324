"""Hypothesis strategies for every message type, built from the types themselves: a new message is covered at once."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from shared.protocol import to_all, to_decode, to_gateway, to_prefill, to_scheduler
from shared.protocol.wire import Message

MODULES = (to_all, to_decode, to_gateway, to_prefill, to_scheduler)
KINDS = sorted(
    {
        found
        for module in MODULES
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Message) and found is not Message
    },
    key=lambda kind: kind.__name__,
)

PACKABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@cache
def messages(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Instances of `kind` with values anywhere in their ranges, `v` always ours."""
    fields = {
        field.name: _values(field.type)
        for field in inspect.type_info(kind).fields
        if field.name != "v"  # type: ignore[union-attr]
    }
    return st.builds(kind, **fields)


def _values(kind: inspect.Type) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - one line per kind of type
    match kind:
        case inspect.StructType():
            return messages(kind.cls)
        case inspect.IntType():
            low = -(2**63) if kind.ge is None else kind.ge
            high = 2**64 - 1 if kind.le is None else kind.le
            return st.integers(low, high if kind.lt is None else kind.lt - 1)
        case inspect.StrType():
            return st.text(max_size=12) if kind.pattern is None else st.from_regex(kind.pattern)
        case inspect.BytesType():
            return st.binary(max_size=24)
        case inspect.FloatType():
            return st.floats(allow_nan=False)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.EnumType():
            return st.sampled_from(list(kind.cls))
        case inspect.VarTupleType():
            return st.lists(_values(kind.item_type), max_size=3).map(tuple)
        case inspect.TupleType():
            return st.tuples(*(_values(item) for item in kind.item_types))
        case inspect.DictType():
            return st.dictionaries(_values(kind.key_type), _values(kind.value_type), max_size=3)
        case inspect.UnionType():
            return st.one_of(*(_values(choice) for choice in kind.types))
    raise NotImplementedError(f"no strategy for {kind}")


def as_map(message: Message) -> dict[str, Any]:
    """`message` as plain lists and maps, the way another MessagePack library holds it."""
    return _lists(msgspec.to_builtins(message, builtin_types=(bytes,)))


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, list | tuple) else value
