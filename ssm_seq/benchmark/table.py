"""Measured figures as a table that grows with each of them: in colour on a terminal, plain elsewhere."""

import sys
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ssm_seq.benchmark.measured import Measured

COLUMNS = {
    "": 56,
    "measured": 15,
    "10-90 %": 17,
    "floor": 30,
    "over it": 8,
    "peak GiB": 9,
    "target": 16,
    "beside it": 0,
}


class LiveTable:
    """`with LiveTable() as table: table.add(measured)`; on stdout."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file or sys.stdout
        self._console = Console(file=self._file)
        self._table = Table(*COLUMNS, box=None, header_style="bold", pad_edge=False)
        for column in self._table.columns:
            column.no_wrap = column.header != "beside it"
        self._live = Live(self._table, console=self._console, auto_refresh=False)
        self._styled = self._console.is_terminal

    def __enter__(self) -> Self:
        if self._styled:
            self._live.start()
        else:
            self._print(list(COLUMNS))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._styled:
            self._live.stop()

    def add(self, measured: Measured) -> None:
        cells = row(measured)
        if not self._styled:
            self._print(cells)
            return
        style = {None: "", True: "green", False: "red"}[False if measured.failed else measured.met]
        marked = [Text(cell, style if number in (1, 6) else "") for number, cell in enumerate(cells)]
        self._table.add_row(*marked)
        self._live.refresh()

    def _print(self, cells: list[str]) -> None:
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, COLUMNS.values(), strict=True))
        print(line.rstrip(), file=self._file, flush=True)


def row(measured: Measured) -> list[str]:
    """One cell for each of COLUMNS. `floor` names what each kind of work takes; the largest is the floor."""
    kinds = {"bytes": "bytes", "exponentials": "exp", "operations": "products"}
    floors = ", ".join(f"{kinds.get(kind, kind)} {_short(value)}" for kind, value in measured.floors.items())
    over = "" if measured.over_floor is None else f"{measured.over_floor:.2f} x"
    interval = "" if measured.low is None else f"{_short(measured.low)}-{_short(measured.high)}"
    value = measured.failed if measured.value is None else f"{_short(measured.value)} {measured.unit}"
    beyond = "<=" if measured.less_is_better else ">="
    targets = [f"{beyond} {measured.target:g}"] if measured.target is not None else []
    targets += [f"<= {measured.peak_target:g} GiB"] if measured.peak_target is not None else []
    verdict = {None: "", True: " met", False: " missed"}[measured.met]
    peak = "" if measured.peak is None else f"{measured.peak:.2f}"
    return [measured.name, value, interval, floors, over, peak, ", ".join(targets) + verdict, _peer(measured)]


def _peer(measured: Measured) -> str:
    if (peer := measured.peer) is None:
        return ""
    figures = [] if peer.value is None else [f"{_short(peer.value)} {measured.unit}"]
    figures += [] if peer.peak is None else [f"{peer.peak:g} GiB"]
    return f"{peer.label}{': ' if figures else ''}{', '.join(figures)}"


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 0.1 else f"{value:.2g}"
