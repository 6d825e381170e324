"""Which workers may hand caches to one another, by their beats, and what keeps others apart.

The scheduler logs it, `baton workers` shows it.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.core import ModelParts, Role
from shared.protocol.to_all import Beat

OTHER_PHASE = {Role.PREFILL: Role.DECODE, Role.DECODE: Role.PREFILL}


def meet(one: Beat, other: Beat) -> bool:
    """Whether the two are of different phases of a model of one name, and so meant to pair."""
    return OTHER_PHASE.get(one.role) is other.role and one.model == other.model


def differences(one: Beat, other: Beat) -> tuple[str, ...]:
    """The parts in which two models of one name differ; none: the workers pair."""
    if one.fingerprint == other.fingerprint:
        return ()
    names = ModelParts.__struct_fields__
    return tuple(name for name in names if getattr(one.parts, name) != getattr(other.parts, name)) or ("fingerprint",)


def apart(prefills: Sequence[Beat], decodes: Sequence[Beat]) -> str:
    """Why none of one phase pairs with any of the other, by the first of each; empty: some do, or a phase has none."""
    unlike = [differences(prefill, decode) for prefill in prefills for decode in decodes]
    return differ(unlike[0]) if unlike and all(unlike) else ""


def differ(parts: tuple[str, ...]) -> str:
    """`rope differs`, `weights differ`, `rope and tokenizer differ`."""
    if len(parts) > 1:
        return f"{', '.join(parts[:-1])} and {parts[-1]} differ"
    return f"{parts[0]} differ" if parts[0].endswith("s") else f"{parts[0]} differs"
