"""Pooled log-mel spectrograms: which frequencies a sound has, and how much they vary, without their order."""

import numpy as np
import torch
from numpy.typing import NDArray
from torchaudio.transforms import MelSpectrogram

_FRAME_SECONDS = 0.032
_BANDS = 32
_FLOOR = 1e-6  # power of one quantisation step or so: silence stays finite


def log_mel_statistics(waveform: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Mean and standard deviation over time of each log-mel band, (n, length) in [-1, 1] -> (n, 64).

    Frames of about 32 ms (a power of two, at most the window), half overlapping.
    """
    frame = 2 ** round(np.log2(_FRAME_SECONDS * sample_rate))
    while frame > waveform.shape[1]:
        frame //= 2
    mel = MelSpectrogram(sample_rate, n_fft=frame, hop_length=max(1, frame // 2), n_mels=_BANDS, center=False)
    bands = torch.log(mel(torch.from_numpy(waveform)) + _FLOOR)
    return torch.cat([bands.mean(-1), bands.std(-1, correction=0)], dim=-1).numpy()
