"""Our rendering against the transformers library's, for templates that use the dialect's corners."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from shared.text.chat_template import ChatTemplate

CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [
        {"role": "system", "content": 'Be <brief> & "kind".'},
        {"role": "user", "content": " 你好 😀\n\n"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"x": [1, 2.5, "<é>"]}}]},
        {"role": "user", "content": "{{ bos_token }} {% raw %}"},
    ],
    [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4", "reasoning": "add"}],
]
TEMPLATES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + (message['content'] or '')"
    " + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "loops": """{%- set ns = namespace(last='', count=0) -%}
    {% for m in messages %}
        {%- if m.role == 'system' %}{% continue %}{% endif %}
        {%- set ns.count = ns.count + 1 %}
[{{ loop.index }}/{{ loop.length }}
{{ loop.previtem.role if not loop.first }}>{{ loop.nextitem.role if not loop.last }}]
{{ loop.revindex0 }}
        {%- if ns.count > 5 %}{% break %}{% endif %}
    {% else %}none{% endfor %}
{{ bos_token }}{{ ns.count * 2 }}{{ '-' * 3 }}{{ 2 ** 3 }}""",
    "json": "{% for m in messages %}{{ m | tojson }}\n{{ m | tojson(indent=2, sort_keys=true) }}{% endfor %}"
    "{{ dict(a=1) | tojson }}{{ tools is none }}{{ documents is none }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content | default('-', true) | trim }}"
    "{% endgeneration %}"
    "{{ m.reasoning_content }}{{ m.thinking }}{% endfor %}{{ eos_token }}{{ pad_token is defined }}",
    "macros": "{% macro show(m, depth=0) %}{{ m.role }}{% if depth < 2 %}{{ show(m, depth + 1) }}{% endif %}"
    "{% endmacro %}\n"
    "   {% for m in messages | selectattr('role', 'equalto', 'user') %}\n   {{ show(m) }}\n   {% endfor %}\n"
    "{{ messages | map(attribute='role') | join(',') }}{{ messages[-1]['content'] | length }}",
}


@pytest.fixture(scope="module")
def reference() -> PreTrainedTokenizerFast:
    backend = Backend(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@pytest.mark.parametrize("chat", CHATS, ids=range(len(CHATS)))
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_renders_as_transformers_does(
    reference: PreTrainedTokenizerFast, name: str, chat: list[dict[str, Any]], add_generation_prompt: bool
) -> None:
    release = tuple(map(int, transformers.__version__.split(".")[:2]))
    if release < (5, 23) and any("reasoning" in message or message["content"] is None for message in chat):
        pytest.skip("older releases of transformers know one name for reasoning, and hand over content that is null")
    expected = reference.apply_chat_template(
        chat, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=add_generation_prompt
    )
    ours = ChatTemplate(name, TEMPLATES[name], {"bos_token": "<s>", "eos_token": "</s>"})
    assert ours.render(chat, add_generation_prompt=add_generation_prompt) == expected


@pytest.mark.parametrize("as_file", [True, False])
def test_reads_the_folder_transformers_writes(
    reference: PreTrainedTokenizerFast, tmp_path: Path, as_file: bool
) -> None:
    reference.chat_template = TEMPLATES["loops"]
    reference.save_pretrained(tmp_path, save_jinja_files=as_file)
    reference.chat_template = None
    assert as_file == (tmp_path / "chat_template.jinja").exists()
    assert as_file != ("chat_template" in json.loads((tmp_path / "tokenizer_config.json").read_text()))
    expected = reference.apply_chat_template(CHATS[1], chat_template=TEMPLATES["loops"], tokenize=False)
    assert ChatTemplate.load(tmp_path, "m").render(CHATS[1], add_generation_prompt=False) == expected
