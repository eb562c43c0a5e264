"""A streaming FASTA reader: big blocks, constant memory, and bad input named with its position.

Plain, gzip (and bgzip), bzip2 and xz files are told apart by their first bytes, not by their names.
Letters are IUPAC nucleotides with their case; white space inside a sequence is dropped.
"""

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ssm_seq.data.alphabet import DNA_LETTERS
from ssm_seq.errors import InputError

_BLOCK = 1 << 20
_LONGEST_HEADER = 1 << 20
_SPACE = b" \t\r\n"
_BASES = b"ACGTUNacgtun"
_AMBIGUOUS = DNA_LETTERS + DNA_LETTERS.lower()
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
# The empty block that ends every file of bgzip; without it whole blocks may be missing without a trace.
_BGZF_MARK = b"BC\x02\x00"
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def read_fasta(
    path: Path | str, progress: Callable[[int], None] | None = None
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield (name, chunks of letters) for each record; chunks not taken before the next record are gone.

    The name is the first word of the header. `progress` is told how many bytes of the file were read so far.

    Raises:
        InputError: an empty or truncated file, text before the first header, a header without a name, a name
            that occurs twice, a record without letters, or one that isn't nucleotides (position and letter).
    """
    pieces = _pieces(path, blocks(path, progress))
    header: bytes | None = None

    def letters(name: str) -> Iterator[bytes]:
        nonlocal header
        header, length, ambiguous = None, 0, 0
        for is_header, text in pieces:
            if is_header:
                header = text
                break
            text = text.translate(None, _SPACE)
            if others := text.translate(None, _BASES):
                _check_letters(path, name, text, length)
                ambiguous += len(others)
            length += len(text)
            if text:
                yield text
        if not length:
            raise InputError(f"{path}: record {name!r} has no sequence")
        if ambiguous > length / 2:
            raise InputError(
                f"{path}: {ambiguous} of the {length} letters of record {name!r} are ambiguity codes; "
                "expected DNA, this looks like protein"
            )

    for is_header, text in pieces:
        if is_header:
            header = text
            break
        if text.strip():
            first = text.lstrip()[:1]
            raise InputError(
                f"{path}: the text starts with {_shown(first)}; expected FASTA, which starts with '>'"
            )
    if header is None:
        raise InputError(f"{path}: the file is empty; expected FASTA, which starts with '>'")
    names: set[str] = set()
    while header is not None:
        name = header.decode(errors="replace").partition(" ")[0].partition("\t")[0].strip()
        if not name:
            raise InputError(f"{path}: record number {len(names) + 1} has no name right after its '>'")
        if name in names:
            raise InputError(f"{path}: the record name {name!r} occurs twice; names must be unique")
        names.add(name)
        chunks = letters(name)
        yield name, chunks
        for _ in chunks:
            pass


def blocks(path: Path | str, progress: Callable[[int], None] | None = None) -> Iterator[bytes]:
    """The content of a file, decompressed, in blocks.

    Raises:
        InputError: it can't be read, or is truncated or damaged.
    """
    try:
        with Path(path).open("rb") as raw:
            check_bgzip(path, raw)
            start = raw.read(18)
            raw.seek(0)
            opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
            with raw if opener is None else opener(raw) as file:
                while block := file.read(_BLOCK):
                    if progress:
                        progress(raw.tell())
                    yield block
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the compressed file is truncated or damaged ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error})") from error


def check_bgzip(path: Path | str, file: BinaryIO) -> bool:
    """Whether this is a bgzip file; `file` stands at its start, before and after.

    Raises:
        InputError: it is one, and whole blocks at its end are missing.
    """
    found = file.read(18)[12:16] == _BGZF_MARK
    if found:
        file.seek(-min(len(_BGZF_END), os.fstat(file.fileno()).st_size), os.SEEK_END)
        if file.read() != _BGZF_END:
            raise InputError(f"{path}: the bgzip file is truncated (its end marker is missing)")
    file.seek(0)
    return found


def _pieces(path: Path | str, blocks: Iterator[bytes]) -> Iterator[tuple[bool, bytes]]:
    """(True, header without '>') and (False, some text of the sequence below it), in the file's order."""
    header, in_header, at_line_start = b"", False, True
    for block in blocks:
        position = 0
        while position < len(block):
            if in_header:
                end = block.find(b"\n", position)
                stop = len(block) if end < 0 else end
                header += block[position:stop]
                if len(header) > _LONGEST_HEADER:
                    raise InputError(
                        f"{path}: a header is longer than {_LONGEST_HEADER} bytes; expected FASTA"
                    )
                position = stop + 1
                if end >= 0:
                    yield True, header
                    header, in_header, at_line_start = b"", False, True
            elif at_line_start and block.startswith(b">", position):
                in_header, position = True, position + 1
            else:
                end = block.find(b"\n>", position)
                stop = len(block) if end < 0 else end + 1
                yield False, block[position:stop]
                at_line_start, position = block.endswith(b"\n", position, stop), stop
    if in_header:
        yield True, header


def _check_letters(path: Path | str, name: str, text: bytes, offset: int) -> None:
    illegal = text.translate(None, _AMBIGUOUS + b"Uu")
    if illegal:
        position = offset + text.index(illegal[:1]) + 1
        what = "this looks like protein" if illegal[:1] in b"EFILPQefilpq" else "expected IUPAC nucleotides"
        raise InputError(f"{path}: record {name!r} has {_shown(illegal[:1])} at position {position}; {what}")


def _shown(byte: bytes) -> str:
    return "a NUL byte" if byte == b"\0" else repr(byte.decode("latin-1"))
