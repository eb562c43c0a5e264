"""Scores of finished records in a file that only grows: what a run that was killed need not do again."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from ssm_seq.inference.score import Score


class Finished:
    """Scores by the number of their record, a line each. A last line that was cut is dropped."""

    def __init__(self, path: Path) -> None:
        self._scores = {number: Score(**score) for number, score in _lines(path)}
        self._file = path.open("a")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __contains__(self, number: int) -> bool:
        return number in self._scores

    def __getitem__(self, number: int) -> Score:
        return self._scores[number]

    def add(self, number: int, score: Score) -> None:
        """Keep it, on disk at once: it outlives the process."""
        self._file.write(json.dumps([number, asdict(score)]) + "\n")
        self._file.flush()
        self._scores[number] = score


def _lines(path: Path) -> Iterator[list]:
    if not path.exists():
        return
    with path.open("r+b") as file:
        whole = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            yield json.loads(line)
        file.truncate(whole)
