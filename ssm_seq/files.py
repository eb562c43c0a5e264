"""Files that appear whole or not at all, checksums, and one run at a time in a folder."""

import fcntl
import glob
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssm_seq.errors import InputError


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its name when the block ends without an error."""
    path = Path(path)
    partial = _partial(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: Path | str, marker: str = "") -> Iterator[Path]:
    """Yield a temporary directory that takes the place of `path` when the block ends without an error.

    An older folder there is replaced if it is empty (but for hidden files) or holds `marker`, a file name or
    pattern that tells it is an older result of the same kind.

    Raises:
        InputError: `path` is a file, or a folder that holds something else.
    """
    path = Path(path)
    if path.is_file():
        raise InputError(f"{path}: is a file; choose another folder")
    if path.is_dir() and not (marker and any(path.glob(marker))):
        for item in path.glob("[!.]*"):
            raise InputError(f"{path}: holds {item.name} and is not replaced; choose another folder")
    partial = _partial(path)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            retired = partial.with_suffix(".old")
            path.replace(retired)
            partial.replace(path)
            shutil.rmtree(retired)
        else:
            partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial(path: Path) -> Path:
    """A hidden name beside `path` that tells whose it is; what killed processes left is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.{socket.gethostname()}-"
    for left in path.parent.glob(f"{glob.escape(prefix)}*"):
        process, _, kind = left.name.removeprefix(prefix).partition(".")
        if kind in ("partial", "old") and process.isdigit() and not _is_running(int(process)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f"{prefix}{os.getpid()}.partial")


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # someone else's
    return True


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path: Path | str) -> Any:
    """What `write_json` wrote.

    Raises:
        OSError: the file can't be read. ValueError: it is not JSON.
    """
    return json.loads(Path(path).read_text())


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def only_run_in(directory: Path | str) -> Iterator[None]:
    """Hold a folder for one run; the lock goes with the process, however it ends.

    Raises:
        InputError: another process holds the folder.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{directory}: another run is writing here; wait for it or choose another"
            ) from None
        yield
