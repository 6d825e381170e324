from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.errors import InvalidRequest, UnsupportedModel
from shared.text import chat_template
from shared.text.chat_template import ChatTemplate

USER = [{"role": "user", "content": "Hi"}]


def render(source: str, messages: list[dict[str, object]] | None = None) -> str:
    return ChatTemplate("m", source, {"bos_token": "<s>"}).render(messages or USER)


def test_messages_special_tokens_and_the_generation_prompt_are_there() -> None:
    source = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    source += "{% if add_generation_prompt %}assistant:{% endif %}"
    assert render(source) == "<s>user: Hi\nassistant:"


def test_a_template_may_refuse_messages() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1 / 0 }}",
        "{{ messages[7].content.x }}",
        "{{ messages + 1 }}",
        "{% include 'x' %}",
        "{{ [] | first | int('x') + 'a' }}",
    ],
)
def test_an_error_inside_the_template_is_a_bad_request(source: str) -> None:
    with pytest.raises(InvalidRequest):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__ }}",
        "{{ strftime_now.__globals__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ cycler.__init__.__globals__.os.environ }}",
        "{% set ns = namespace(_x=1) %}{{ ns._x }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{% extends '/etc/passwd' %}",
        "{{ '{0.__class__}'.format(messages) }}",
    ],
)
def test_a_hostile_template_gets_nowhere(source: str) -> None:
    try:
        text = render(source)
    except InvalidRequest:
        return
    assert text == ""


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in [[1]] recursive %}{{ loop(a) }}{{ loop([a, a]) }}{% endfor %}",
        "{{ 'a' * 10 ** 12 }}",
        "{{ 9 ** 999999999 }}",
        "{{ range(10 ** 9) | list }}",
    ],
)
@pytest.mark.timeout(20)
def test_an_endless_template_is_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "RENDER_TIMEOUT_S", 0.05)
    with pytest.raises(InvalidRequest):
        render(source)


def test_an_endless_output_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "LARGEST_PROMPT_CHARACTERS", 1000)
    with pytest.raises(InvalidRequest, match="longer than 1000"):
        render("{% for a in range(99999) %}{{ a }}{% endfor %}")


def test_a_broken_template_is_refused_when_loaded() -> None:
    with pytest.raises(UnsupportedModel, match="template of m"):
        ChatTemplate("m", "{% for %}", {})


def test_a_model_without_template_is_named(tokenizer_folder: Path) -> None:
    template = ChatTemplate.load(tokenizer_folder, "tiny-base")
    with pytest.raises(InvalidRequest, match="tiny-base has no chat template"):
        template.render(USER)


def test_no_messages_is_a_bad_request() -> None:
    with pytest.raises(InvalidRequest):
        ChatTemplate("m", "x", {}).render([])


def test_the_template_is_found_wherever_models_keep_it(tokenizer_folder: Path) -> None:
    config = tokenizer_folder / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "named{{ eos_token }}"}]
    config.write_text(json.dumps({"chat_template": named, "eos_token": {"content": "</s>"}}))
    assert ChatTemplate.load(tokenizer_folder, "m").render(USER) == "named</s>"
    config.write_text(json.dumps({"chat_template": "plain"}))
    assert ChatTemplate.load(tokenizer_folder, "m").render(USER) == "plain"
    (tokenizer_folder / "chat_template.jinja").write_text("file")
    assert ChatTemplate.load(tokenizer_folder, "m").render(USER) == "file"


def test_the_callers_messages_are_left_alone() -> None:
    messages: list[dict[str, object]] = [{"role": "user", "content": None, "reasoning": "r"}]
    assert render("{{ messages[0].content is defined }} {{ messages[0].reasoning_content }}", messages) == "False r"
    assert messages == [{"role": "user", "content": None, "reasoning": "r"}]
