"""Fetches a model folder from a hub: safetensors, configuration and tokenizer files only, never code or pickles.

An interrupted download goes on where it stopped. `pull.py` calls it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from shared.errors import BatonError, ModelNotFound, Unavailable

_TIMEOUT_S = 5.0
_WANTED = ["*.safetensors", "*.json", "*.jinja"]
# Second copies of the weights, in other formats or for other software.
_UNWANTED = ["onnx/*", "original/*", "openvino/*", "*/*.safetensors", "consolidated*"]
_DOWNLOAD_STATE = ".cache"


def download_from_hub(name: str, folder: Path, *, endpoint: str | None = None) -> None:
    """Fill `folder` with the model `org/name` from the hub at `endpoint` (None: the one the library is set up for).

    Raises ModelNotFound when the hub has no such model (or not for this user), Unavailable when no hub can be reached.
    """
    import huggingface_hub as hub  # noqa: PLC0415
    from huggingface_hub.errors import RepositoryNotFoundError  # noqa: PLC0415

    try:
        revision = hub.HfApi(endpoint=endpoint).model_info(name, timeout=_TIMEOUT_S).sha
        hub.snapshot_download(
            name,
            revision=revision,
            local_dir=folder,
            allow_patterns=_WANTED,
            ignore_patterns=_UNWANTED,
            etag_timeout=_TIMEOUT_S,
            endpoint=endpoint,
        )
    except RepositoryNotFoundError as error:
        raise ModelNotFound(f"the hub has no model {name}, or not for this user: {error}", param="model") from error
    except Exception as error:  # a connection boundary: the library passes on whatever its HTTP client raises
        raise _unavailable(name, error) from error
    shutil.rmtree(folder / _DOWNLOAD_STATE, ignore_errors=True)


def _unavailable(name: str, error: Exception) -> BatonError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Unavailable(f"cannot get {name} from the hub: {reason}. A local folder works without one")
