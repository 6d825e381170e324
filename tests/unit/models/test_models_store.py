from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import ModelNotFound, UnsupportedModel
from shared.models.catalogue import DEFAULT_MODEL
from shared.models.manifest import write_manifest
from shared.models.store import ModelFolder, model_path, resolve


def put_in_cache(folder: Path, name: str, cache: Path) -> Path:
    write_manifest(folder, name=name, source="test", licence=None)
    target = model_path(name, cache)
    target.parent.mkdir(parents=True)
    return folder.rename(target)


def test_a_local_folder_is_its_own_model(local_folder: Path, tmp_path: Path) -> None:
    assert resolve(str(local_folder), tmp_path) == ModelFolder("my-model", local_folder.resolve())


@pytest.mark.parametrize("asked", [DEFAULT_MODEL, "SmolLM2-135M-Instruct"])
def test_a_pulled_catalogue_model_is_found_in_the_cache(local_folder: Path, tmp_path: Path, asked: str) -> None:
    path = put_in_cache(local_folder, DEFAULT_MODEL, tmp_path)
    assert resolve(asked, tmp_path) == ModelFolder(DEFAULT_MODEL, path)


def test_a_pulled_hub_model_is_found_in_the_cache(local_folder: Path, tmp_path: Path) -> None:
    path = put_in_cache(local_folder, "org/Name-1B", tmp_path)
    assert resolve("org/Name-1B", tmp_path) == ModelFolder("org/Name-1B", path)


@pytest.mark.parametrize("name", [DEFAULT_MODEL, "org/name"])
def test_a_model_not_pulled_yet_says_what_to_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match=f"run `baton pull {name}`"):
        resolve(name, tmp_path)


def test_an_unknown_name_gets_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=f"did you mean {DEFAULT_MODEL}"):
        resolve("smollm2", tmp_path)
    with pytest.raises(ModelNotFound, match=f"known names are: {DEFAULT_MODEL}"):
        resolve("zzz", tmp_path)


@pytest.mark.parametrize("name", ["../etc", "a/../b", "/", "..", "", "a/b/c"])
def test_a_name_that_is_a_path_to_nowhere_stays_out_of_the_cache(tmp_path: Path, name: str) -> None:
    with pytest.raises((ModelNotFound, UnsupportedModel)):
        resolve(name, tmp_path)


def test_a_pulled_model_that_lost_a_file_is_damaged(local_folder: Path, tmp_path: Path) -> None:
    path = put_in_cache(local_folder, DEFAULT_MODEL, tmp_path)
    (path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ModelNotFound, match="damaged"):
        resolve(DEFAULT_MODEL, tmp_path)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_a_folder_without_a_needed_file_is_refused(local_folder: Path, tmp_path: Path, file: str) -> None:
    (local_folder / file).unlink()
    with pytest.raises(UnsupportedModel, match=f"no {file}"):
        resolve(str(local_folder), tmp_path)


def test_pickled_weights_are_refused(local_folder: Path, tmp_path: Path) -> None:
    (local_folder / "model.safetensors").rename(local_folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match="only safetensors load"):
        resolve(str(local_folder), tmp_path)


def test_a_folder_without_weights_is_refused(local_folder: Path, tmp_path: Path) -> None:
    (local_folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModel, match="no weights"):
        resolve(str(local_folder), tmp_path)
