"""Turns, and what a typed line means."""

from __future__ import annotations

import pytest

from services.chat.commands import Action, Line, read_line
from services.chat.conversation import Conversation
from services.chat.settings import stream_url
from shared.errors import ConfigError


def test_turns_follow_the_system_message() -> None:
    talk = Conversation("be brief")
    talk.ask("one")
    talk.answer("1")
    talk.ask("two")
    assert [message["role"] for message in talk.messages] == ["system", "user", "assistant", "user"]


def test_a_question_without_an_answer_is_forgotten() -> None:
    talk = Conversation()
    talk.ask("one")
    talk.answer("")
    assert talk.messages == []


def test_the_oldest_turn_goes_first_and_the_open_question_never() -> None:
    talk = Conversation("system")
    talk.ask("one")
    talk.answer("1")
    talk.ask("two")
    assert talk.forget_oldest()
    assert [message["content"] for message in talk.messages] == ["system", "two"]
    assert not talk.forget_oldest()


def test_reset_keeps_the_system_message() -> None:
    talk = Conversation("system")
    talk.ask("one")
    talk.reset()
    assert [message["content"] for message in talk.messages] == ["system"]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("hi there ", Line(Action.ASK, "hi there")),
        ("", Line(Action.NOTHING)),
        ("  ", Line(Action.NOTHING)),
        ("/quit", Line(Action.QUIT)),
        ("/exit", Line(Action.QUIT)),
        ("/reset", Line(Action.RESET)),
        ("/help", Line(Action.HELP)),
        ("/system be kind", Line(Action.SYSTEM, "be kind")),
        ("/system", Line(Action.SYSTEM)),
        ("/dance now", Line(Action.UNKNOWN, "/dance")),
        ("//etc is what?", Line(Action.ASK, "/etc is what?")),
    ],
)
def test_lines(typed: str, line: Line) -> None:
    assert read_line(typed) == line


@pytest.mark.parametrize(
    ("url", "stream"),
    [
        ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/v1/stream"),
        ("https://host/baton/", "wss://host/baton/v1/stream"),
        ("ws://host:1", "ws://host:1/v1/stream"),
    ],
)
def test_stream_url(url: str, stream: str) -> None:
    assert stream_url(url) == stream


@pytest.mark.parametrize("url", ["localhost:8080", "nats://host", "http://"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        stream_url(url)
