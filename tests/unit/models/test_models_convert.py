"""A tiny GGUF model through the real conversion."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import pre_tokenizers

from shared.errors import UnsupportedModel
from shared.models.convert import convert_gguf
from shared.models.facts import read_model_facts
from shared.models.store import check_model_folder
from shared.text.chat_template import ChatTemplate
from shared.text.tokenizer import Tokenizer

HIDDEN, WIDE, HEADS, KV_HEADS = 64, 96, 4, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠĠ", "hi"]


def write_gguf(path: Path, *, split: str = "smollm") -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100_000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in TOKENS])
    writer.add_token_merges(["Ġ Ġ", "h i"])
    for add, token_id in ((writer.add_bos_token_id, 1), (writer.add_eos_token_id, 2), (writer.add_pad_token_id, 2)):
        add(token_id)
    writer.add_chat_template("{{ bos_token }}{{ messages[0].content }}")
    for name, shape in tensor_shapes().items():
        values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        plain = len(shape) == 1
        data = values if plain else gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_1)
        writer.add_tensor(name, data, raw_dtype=None if plain else gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    kv = HIDDEN * KV_HEADS // HEADS
    block = {
        "attn_norm": (HIDDEN,),
        "ffn_norm": (HIDDEN,),
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (kv, HIDDEN),
        "attn_v": (kv, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (WIDE, HIDDEN),
        "ffn_up": (WIDE, HIDDEN),
        "ffn_down": (HIDDEN, WIDE),
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(TOKENS), HIDDEN), "output_norm.weight": (HIDDEN,)}
    return shapes | {f"blk.0.{name}.weight": shape for name, shape in block.items()}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gguf_file = write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    folder = tmp_path_factory.mktemp("model")
    convert_gguf(gguf_file, folder)
    return folder


def test_the_folder_can_be_served(converted: Path) -> None:
    check_model_folder(converted)
    facts = read_model_facts(converted)
    assert (facts.vocab_size, facts.context_tokens, facts.eos_token_ids) == (len(TOKENS), 128, (2,))


def test_other_users_may_read_it(converted: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in converted.iterdir()} == {0o644}


def test_the_weights_are_bf16_and_the_tied_head_is_not_stored_twice(converted: Path) -> None:
    import torch
    from safetensors.torch import load_file

    weights = load_file(converted / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert len(weights) == len(tensor_shapes())
    assert "lm_head.weight" not in weights


def test_the_tokenizer_splits_digits_and_knows_its_special_tokens(converted: Path) -> None:
    tokenizer = Tokenizer.load(converted)
    ids = tokenizer.encode("hi  12<|im_end|>", add_special_tokens=True)
    assert [tokenizer.token_text(token_id) for token_id in ids] == ["hi", "  ", "1", "2", "<|im_end|>"]
    assert tokenizer.special_ids == {0, 1, 2}
    template = ChatTemplate.load(converted, "tiny")
    assert template.render([{"role": "user", "content": "hi"}]) == "<|im_start|>hi"


def test_an_unknown_tokenizer_is_refused(tmp_path: Path) -> None:
    gguf_file = write_gguf(tmp_path / "tiny.gguf", split="unheard-of")
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(UnsupportedModel, match="unheard-of"):
        convert_gguf(gguf_file, folder)


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF? no")
    with pytest.raises(UnsupportedModel, match=r"cannot convert tiny\.gguf"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path)
