"""Huge pages for a worker: its weights and caches are read whole at every step, and small pages cost a tenth of it.

glibc's allocator asks the kernel for them when a tunable says so, which it reads when a process begins; and for what
other threads than the first allocate, as engines do, only where all share one arena. So a worker starts itself anew
with both, in the same process. `services.cli_process` calls this before anything large is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

VARIABLE = "GLIBC_TUNABLES"
TUNABLE = "glibc.malloc.hugetlb"
WANTED = (f"{TUNABLE}=1", "glibc.malloc.arena_max=1")


def begin_anew_with_huge_pages(environ: Mapping[str, str]) -> None:
    """Does not return, but the second time: this program begins again. Whoever has set the tunable has decided.

    Where the libc is another one, or the kernel gives no huge pages on request, it changes nothing.
    """
    wanted = with_huge_pages(environ)
    if wanted is not None and sys.platform == "linux":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)


def with_huge_pages(environ: Mapping[str, str]) -> dict[str, str] | None:
    """`environ` and the tunables; None when the first is there already."""
    given = environ.get(VARIABLE, "")
    if TUNABLE in given:
        return None
    return {**environ, VARIABLE: ":".join(filter(None, (given, *WANTED)))}
