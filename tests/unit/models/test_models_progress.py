from __future__ import annotations

import io

from rich.console import Console

from shared.models.progress import show_progress


def test_plain_lines_tell_stages_and_quarters() -> None:
    output = io.StringIO()
    with show_progress(Console(file=output)) as progress:
        progress.stage("Downloading", 100_000_000)
        for done_mb in range(0, 151, 10):
            progress.reached(done_mb * 1_000_000)
        progress.stage("Converting")
        progress.reached(5)
    assert output.getvalue().splitlines() == [
        "Downloading",
        "Downloading: 30 of 100 MB",
        "Downloading: 50 of 100 MB",
        "Downloading: 80 of 100 MB",
        "Converting",
    ]


def test_a_terminal_gets_a_bar_per_stage() -> None:
    output = io.StringIO()
    with show_progress(Console(file=output, force_terminal=True, width=100)) as progress:
        progress.reached(1)
        progress.stage("Downloading", 100)
        progress.reached(40)
        progress.stage("Converting")
    assert "Downloading" in output.getvalue()
    assert "Converting" in output.getvalue()
