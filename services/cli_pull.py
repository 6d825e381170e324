"""`baton pull NAME`: fetch a model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from shared.models.catalogue import CATALOGUE, DEFAULT_MODEL
from shared.models.progress import show_progress
from shared.models.pull import pull
from shared.runtime.settings import cache_folder, process_environment


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="baton pull", description="Fetch a model into the cache.")
    names = ", ".join(CATALOGUE)
    parser.add_argument("name", nargs="?", default=DEFAULT_MODEL, help=f"{names}, or org/name of a hub")
    parser.add_argument("--cache-dir", default=process_environment().get("BATON_CACHE_DIR", ""), metavar="DIR")
    arguments = parser.parse_args(list(argv))
    with show_progress(Console(stderr=True)) as progress:
        folder = pull(arguments.name, cache_folder(arguments.cache_dir), progress)
    print(folder.path, file=sys.stdout)
    return 0
