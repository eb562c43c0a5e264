"""What a person sees of a run: a bar on a terminal, a few plain lines elsewhere."""

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """On stderr: a bar with loss, speed and time left on a terminal, else a line for each metrics line."""

    def __init__(self, step: int, steps: int) -> None:
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=steps, completed=step, loss="", speed="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        self._bar.update(self._task, completed=step)

    def metrics(self, line: dict[str, Any]) -> None:
        """Show a line of metrics: in the bar, or printed."""
        if not self.console.is_terminal:
            self.say("  ".join(f"{name} {value:.5g}" for name, value in line.items()))
        elif "loss" in line:
            self._bar.update(
                self._task,
                loss=f"loss {line['loss']:.4f}",
                speed=f"{line['tokens_per_second']:,.0f} tokens/s",
            )

    def say(self, text: str) -> None:
        """Print one line as it is."""
        self.console.print(text, markup=False)
