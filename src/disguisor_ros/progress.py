"""The progress bar of commands that take minutes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bar() -> Progress:
    """Bar on stderr, so that what a command prints can be piped; to be used in ``with``."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def track(items: Iterable, description: str) -> Iterator:
    """Iterate with a progress bar beside it."""
    with progress_bar() as bar:
        yield from bar.track(items, description=description)
