"""Sounds of a report: what was recorded, what was made up, as pictures and as WAV."""

import base64
import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ssm_seq.data.store import Record, Store
from ssm_seq.errors import InputError
from ssm_seq.reporting.style import COLOURS, blank

_FRAME = 256  # samples: 32 ms at 8 kHz
_COLUMNS = 480  # of all spectrograms together; more would not be seen
_RANGE = 70  # dB shown below the loudest point
_BINS = 240  # of a waveform's envelope


@dataclass(frozen=True, eq=False)
class Sound:
    """samples: (length,) float32 in [-1, 1]; rate in Hz; origin says where it comes from."""

    title: str
    origin: str
    samples: NDArray[np.float32]
    rate: int

    @property
    def data_uri(self) -> str:
        """A 16-bit mono WAV as an address that holds its own bytes."""
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.rate)
            file.writeframes(np.round(np.clip(self.samples, -1, 1) * 32767).astype("<i2").tobytes())
        return f"data:audio/wav;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def read_sound(path: Path, title: str) -> Sound:
    """A mono audio file.

    Raises:
        InputError: not an audio file.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(f"{path}: this is not an audio file ({error})") from error
    return Sound(title, path.name, samples, rate)


def recordings(store: Store, seconds: float, at_most: int = 5) -> list[Sound]:
    """For each label the opening of a test recording of at least `seconds`, or of the longest there is."""
    found: list[Sound] = []
    for label in store.labels or [None]:
        tested = [
            record
            for record in store.records
            if record.label == label and any(span.split == "test" for span in record.ranges)
        ]
        if tested:
            enough = (record for record in tested if record.length >= seconds * store.sample_rate)
            longest = max(tested, key=lambda record: record.length)
            found.append(opening(store, next(enough, longest), seconds, label or "recorded"))
    return found[:at_most]


def opening(store: Store, record: Record, seconds: float, title: str) -> Sound:
    """The first `seconds` of the part of a recording that belongs to the test split."""
    start = next(span.start for span in record.ranges if span.split == "test")
    codes = np.asarray(store.bytes(record)[start : start + round(seconds * store.sample_rate)])
    return Sound(title, record.name, store.alphabet.decode_waveform(codes), store.sample_rate)


def sound_pictures(sounds: Sequence[Sound]) -> Figure:
    """Side by side, the waveform above the spectrogram (dB below the loudest of all, one scale)."""
    figure = blank(3.3 if len(sounds) < 4 else 2.9)
    panels = figure.subplots(
        2, len(sounds), squeeze=False, sharex=True, sharey="row", height_ratios=[1, 2.6]
    )  # fmt: skip
    power = [_decibel(sound, _COLUMNS // len(sounds)) for sound in sounds]
    loudest = max(image.max() for image in power)
    peak = max(float(np.abs(sound.samples).max()) for sound in sounds)
    for sound, image, waveform, picture in zip(sounds, power, *panels, strict=True):
        seconds = len(sound.samples) / sound.rate
        edges = np.linspace(0, len(sound.samples), min(_BINS, len(sound.samples)) + 1).astype(int)[:-1]
        times = np.linspace(0, seconds, len(edges))
        low, high = np.minimum.reduceat(sound.samples, edges), np.maximum.reduceat(sound.samples, edges)
        waveform.fill_between(times, low, high, color=COLOURS[0], linewidth=0.4)
        waveform.set(title=sound.title, ylim=(-1.05 * peak, 1.05 * peak))
        waveform.set_axis_off()
        picture.imshow(
            image, origin="lower", aspect="auto", interpolation="none", cmap="magma",
            vmin=loudest - _RANGE, vmax=loudest, extent=(0, seconds, 0, sound.rate / 2000),
        )  # fmt: skip
        picture.xaxis.set_major_locator(MaxNLocator(4))
        picture.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        picture.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        picture.set_xlabel("seconds")
    panels[1, 0].set_ylabel("kHz")
    return figure


def _decibel(sound: Sound, columns: int) -> NDArray[np.floating]:
    """Power of Hann-windowed frames in dB, (frequencies, frames), about `columns` of them."""
    frame = min(_FRAME, len(sound.samples))
    hop = min(max(len(sound.samples) // columns, 1), frame)
    frames = sliding_window_view(sound.samples, frame)[::hop] * np.hanning(frame)
    return 10 * np.log10(np.abs(np.fft.rfft(frames)).T ** 2 + 1e-9)
