"""A progress bar on a terminal; silence elsewhere."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)


def progress_bar(*more: ProgressColumn) -> Progress:
    """A context manager with `add_task` and `advance` on stderr, gone when it ends; `more` columns last."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *more,
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
