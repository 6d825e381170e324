"""The `baton` command: which subcommands there are. Each is imported only when it runs, so that none pays for another.

Exit codes: 0 done, 1 failed, 2 the command line or the settings are wrong, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

from shared.errors import BatonError, ConfigError
from shared.runtime.setting_names import unknown

DISTRIBUTION = "baton-serve"

_COMMANDS = {
    "up": ("services.local.up", "run all services on this machine"),
    "quickstart": ("services.local.quickstart", "run all services, and show one answer and how it came about"),
    "pull": ("services.cli_pull", "fetch a model"),
    "chat": ("services.chat.main", "chat in the terminal"),
    "workers": ("services.cli_workers", "list the live processes"),
    "gateway": ("services.cli_gateway", "run a gateway: the HTTP, WebSocket and NATS doors"),
    "scheduler": ("services.cli_scheduler", "run a scheduler"),
    "prefill": ("services.cli_prefill", "run a prefill worker"),
    "decode": ("services.cli_decode", "run a decode worker"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """`baton COMMAND ...`. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    command, rest = arguments[0], arguments[1:]
    if command in ("version", "--version", "-V"):
        print(version(DISTRIBUTION))
        return 0
    return _run(command, rest)


def gateway() -> int:
    """The console script `baton-gateway`."""
    return _run("gateway", sys.argv[1:])


def scheduler() -> int:
    """The console script `baton-scheduler`."""
    return _run("scheduler", sys.argv[1:])


def prefill() -> int:
    """The console script `baton-prefill`."""
    return _run("prefill", sys.argv[1:])


def decode() -> int:
    """The console script `baton-decode`."""
    return _run("decode", sys.argv[1:])


def _run(command: str, arguments: Sequence[str]) -> int:
    try:
        if command not in _COMMANDS:
            raise ConfigError(unknown(f"command {command!r}", command, _COMMANDS))
        module, _ = _COMMANDS[command]
        return int(importlib.import_module(module).main(arguments))
    except BatonError as error:
        print(f"baton {command}: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130


def _usage() -> str:
    lines = [f"  {name:<12}{doc}" for name, (_, doc) in _COMMANDS.items()]
    return "\n".join(
        ["usage: baton COMMAND [--help] [options]", "", *lines, f"  {'version':<12}print the version of Baton"]
    )


if __name__ == "__main__":
    sys.exit(main())
