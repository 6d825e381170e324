"""What a typed line means: a question, or a command that begins with a slash. No I/O."""

from __future__ import annotations

import enum

import msgspec

HELP = """/reset          forget the conversation
/system TEXT    set the system message, and forget the conversation; no TEXT: none
/help           this
/quit           end (also: Ctrl-D, or Ctrl-C twice)
Ctrl-C stops an answer. A line that begins with // is a question that begins with /."""


class Action(enum.Enum):
    ASK = "ask"
    NOTHING = "nothing"
    RESET = "reset"
    SYSTEM = "system"
    HELP = "help"
    QUIT = "quit"
    UNKNOWN = "unknown"


class Line(msgspec.Struct, frozen=True):
    """`text` is the question, the system message, or the unknown command."""

    action: Action
    text: str = ""


_COMMANDS = {
    "/reset": Action.RESET,
    "/system": Action.SYSTEM,
    "/help": Action.HELP,
    "/quit": Action.QUIT,
    "/exit": Action.QUIT,
}


def read_line(typed: str) -> Line:
    """The meaning of `typed`."""
    text = typed.strip()
    if not text:
        return Line(Action.NOTHING)
    if text.startswith("//"):
        return Line(Action.ASK, text[1:])
    if not text.startswith("/"):
        return Line(Action.ASK, text)
    command, _, rest = text.partition(" ")
    action = _COMMANDS.get(command, Action.UNKNOWN)
    return Line(action, command if action is Action.UNKNOWN else rest.strip())
