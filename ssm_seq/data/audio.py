"""Sound files of any rate and channel count -> mono blocks at one rate, streaming."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ssm_seq.errors import InputError

_BLOCK = 1 << 12
_UNKNOWN = 1 << 62  # libsndfile's count for a FLAC stream whose header leaves the length open
_OGG_PAGE = 65_307  # the longest there is (RFC 3533)


def read_audio(path: Path | str, sample_rate: int) -> Iterator[NDArray[np.float32]]:
    """Yield blocks (n,) float32 of the mean of all channels, resampled to `sample_rate` Hz; full scale is 1.

    WAV, FLAC, OGG and what else libsndfile reads: the content counts, not the extension. Samples are not
    normalised, so loudness is kept; the resampler may overshoot full scale by a little.

    Raises:
        InputError: not sound, no samples, truncated, or a sample that is not a finite number.
    """
    path = Path(path)
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, OSError) as error:
        raise InputError(_unreadable(path)) from error
    with file:
        promised = _promised_samples(path, file)
        resample = soxr.ResampleStream(file.samplerate, sample_rate, 1, dtype="float32")
        seen = 0
        while len(block := _read(file)):
            mono = block.mean(axis=1)
            if not (finite := np.isfinite(mono)).all():
                position = seen + int(np.argmin(finite))
                raise InputError(f"{path}: sample {position} (counted from 0) is NaN or infinite")
            seen += len(mono)
            yield resample.resample_chunk(mono)
        if seen < promised < _UNKNOWN:
            raise InputError(
                f"{path}: truncated or damaged: {seen} samples, where its header promises {promised}"
            )
        yield resample.resample_chunk(np.empty(0, np.float32), last=True)


def _read(file: soundfile.SoundFile) -> NDArray[np.float32]:
    """The next block, (n, channels); nothing where the decoder gives up."""
    try:
        return file.read(_BLOCK, dtype="float32", always_2d=True)
    except soundfile.SoundFileError:
        return np.empty((0, file.channels), np.float32)


def _promised_samples(path: Path, file: soundfile.SoundFile) -> int:
    """The number of samples that the header says, which for WAV libsndfile corrects quietly."""
    # A writer that cannot seek back leaves the largest size in the header: that promises nothing.
    size = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    frame = re.search(r"^ *Block Align *: (\d+)", file.extra_info, re.MULTILINE)
    if size and frame and int(size[2]) < int(size[1]) < 0x7FFF0000:
        return int(size[1]) // int(frame[1])
    if file.format == "OGG" and not _is_whole_ogg(path):
        raise InputError(f"{path}: truncated: the last page of the stream is missing or cut")
    if not file.frames:
        raise InputError(f"{path}: the file has no samples")
    return file.frames


def _is_whole_ogg(path: Path) -> bool:
    """Whether the last page is there to its end and is marked as the last (RFC 3533, section 6)."""
    with path.open("rb") as raw:
        raw.seek(-min(_OGG_PAGE, path.stat().st_size), os.SEEK_END)
        page = raw.read().rpartition(b"OggS")[2]
    segments = page[23 : 23 + page[22]] if len(page) > 22 else b""
    return bool(segments) and bool(page[1] & 4) and len(page) >= 23 + len(segments) + sum(segments)


def _unreadable(path: Path) -> str:
    if not path.is_file():
        return f"{path}: there is no such file"
    if not path.stat().st_size:
        return f"{path}: the file is empty; expected sound"
    return f"{path}: the content is not sound or is truncated; expected WAV, FLAC or OGG"
