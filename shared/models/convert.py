"""Turns a GGUF file into a model folder: bf16 safetensors, configuration and tokenizer.

The only module here that needs torch, which it imports when called. `pull.py` calls it.
"""

from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path

from shared.errors import UnsupportedModel
from shared.models.gguf_tokenizer import write_tokenizer


def convert_gguf(gguf_file: Path, folder: Path) -> None:
    """Fill the empty `folder`. Raises UnsupportedModel for an architecture or tokenizer that cannot be converted."""
    try:
        # The library draws its own progress bars, without a way to turn them all off.
        with contextlib.redirect_stderr(io.StringIO()):
            _write_weights(gguf_file, folder)
    except (ImportError, LookupError, NotImplementedError, ValueError, struct.error) as error:
        raise UnsupportedModel(f"cannot convert {gguf_file.name}: {error}") from error
    write_tokenizer(gguf_file, folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def _write_weights(gguf_file: Path, folder: Path) -> None:
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, GgufConfig  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
        trust_remote_code=False,
    )
    model.generation_config._from_model_config = False  # the file says it; nothing is to be derived again
    model.save_pretrained(folder)
