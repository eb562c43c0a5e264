"""What FLAC, the lossless codec, needs for the same 8-bit codes that a model reads."""

import io

import numpy as np
import soundfile
from numpy.typing import NDArray


def flac_bits(codes: NDArray[np.uint8], sample_rate: int) -> NDArray[np.int64]:
    """Bits of each window's FLAC frames at the highest compression, (n, length) codes -> (n,).

    The codes are written as signed 8-bit samples (code 128 is zero), each window for itself, as a model reads
    it. The file's header is not counted; frame headers and checksums are, about 0.02 bits a sample.
    """
    return np.array([8 * _frame_bytes(row, sample_rate) for row in codes])


def _frame_bytes(codes: NDArray[np.uint8], sample_rate: int) -> int:
    file = io.BytesIO()
    samples = (codes.astype(np.int16) - 128) * 256  # PCM_S8 keeps the upper byte
    soundfile.write(file, samples, sample_rate, format="FLAC", subtype="PCM_S8", compression_level=1.0)
    data = file.getvalue()
    start, last = 4, False  # behind "fLaC" come blocks: 1 bit last, 7 bits type, 24 bits length
    while not last:
        last = data[start] >= 128
        start += 4 + int.from_bytes(data[start + 1 : start + 4])
    return len(data) - start
