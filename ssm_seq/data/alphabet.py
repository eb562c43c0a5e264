"""Alphabets: how the bytes of a store become the token ids of a model, and back.

A store keeps bytes as they came (ASCII letters of DNA with their case, 8-bit codes of sound, text). Ids are
made when a window is read, so case survives as soft masking and is never a second letter.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssm_seq.errors import InputError

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

DNA_LETTERS = b"ACGTNRYSWKMBDHV"
"""Letters by id: the four bases, N, then the IUPAC ambiguity codes. U reads as T."""

TOKENS = "tokens"
"""Stands where the name of an alphabet would: the ids are those of a tokenizer and have no text here."""

SIGNAL = "signal"
"""Stands where the name of an alphabet would: the input is real numbers."""

_DNA_COMPLEMENTS = b"TGCANYRSWMKVHDB"
_ILLEGAL = 255
_MU = 255.0


@dataclass(frozen=True, eq=False)
class Alphabet:
    """A mapping between bytes (256 values) and `size` token ids.

    ids: (256,) uint8, the id of each byte, 255 where the byte is not in the alphabet and size < 256.
    letters: (size,) uint8, the byte that stands for each id.
    """

    name: str
    size: int
    ids: Bytes
    letters: Bytes

    def encode(self, data: Bytes | bytes) -> Bytes:
        """Token ids of bytes: uint8 of any shape (or `bytes`) -> uint8 of the same shape.

        Raises:
            InputError: a byte that is not in the alphabet.
        """
        data = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        ids = self.ids[data]
        if self.size < 256 and ids.size and ids.max() == _ILLEGAL:
            position = int(np.argmax(ids == _ILLEGAL))
            byte = int(data.reshape(-1)[position])
            letter = repr(chr(byte)) if byte < 128 else f"byte {byte:#x}"
            raise InputError(f"position {position + 1}: {letter} is not in the {self.name} alphabet")
        return ids

    def decode(self, ids: NDArray[np.integer]) -> Bytes:
        """Bytes of token ids: integers in 0..size-1 -> uint8 of the same shape."""
        return self.letters[ids]

    @property
    def definite(self) -> int:
        """The ids below it stand for one known symbol each: every code of sound, the four bases of DNA."""
        return self.size

    def soft_masked(self, data: Bytes) -> NDArray[np.bool_]:
        """Where bytes are soft-masked; never, unless the alphabet has case."""
        return np.zeros(data.shape, bool)


class Dna(Alphabet):
    """IUPAC nucleotides, 15 ids; lower case means soft-masked."""

    @property
    def definite(self) -> int:
        return 4

    def soft_masked(self, data: Bytes) -> NDArray[np.bool_]:
        return data >= ord("a")

    def complement(self, ids: Bytes) -> Bytes:
        """The id of the base on the other strand, for each id (no reversal)."""
        return _COMPLEMENT[ids]


@dataclass(frozen=True, eq=False)
class Sound(Alphabet):
    """256 codes for a sample in [-1, 1].

    edges: (257,) float64, code c stands for the samples from edges[c] to edges[c + 1].
    """

    edges: NDArray[np.float64]

    def encode_waveform(self, samples: NDArray[np.floating]) -> Bytes:
        """Codes of finite samples, clamped to [-1, 1]; same shape."""
        return np.searchsorted(self.edges[1:-1], samples, side="right").astype(np.uint8)

    def decode_waveform(self, codes: Bytes) -> Floats:
        """The middle of each code's interval, which bounds the error by half its width; same shape."""
        return ((self.edges[:-1] + self.edges[1:]) / 2).astype(np.float32)[codes]


def _dna() -> Dna:
    letters = np.frombuffer(DNA_LETTERS, np.uint8)
    ids = np.full(256, _ILLEGAL, np.uint8)
    for case in (DNA_LETTERS, DNA_LETTERS.lower()):
        ids[np.frombuffer(case, np.uint8)] = np.arange(len(letters))
    ids[[ord("U"), ord("u")]] = ids[ord("T")]
    return Dna("dna", len(letters), ids, letters)


def _sound(name: str, edges: NDArray[np.float64]) -> Sound:
    codes = np.arange(256, dtype=np.uint8)
    return Sound(name, 256, codes, codes, edges)


_UNIFORM = np.arange(-128, 129) / 128
DNA = _dna()
BYTES = Alphabet("bytes", 256, np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
LINEAR = _sound("linear", _UNIFORM)
# G.711's continuous mu-law, inverted: |x| = ((1 + mu)^|y| - 1) / mu, on 256 equal steps of y.
MU_LAW = _sound("mu_law", np.sign(_UNIFORM) * ((1 + _MU) ** np.abs(_UNIFORM) - 1) / _MU)
_COMPLEMENT = DNA.ids[np.frombuffer(_DNA_COMPLEMENTS, np.uint8)]


def alphabet(name: str) -> Alphabet:
    """The alphabet of that name: `dna`, `mu_law`, `linear` or `bytes`.

    Raises:
        InputError: there is no such alphabet, or it is `TOKENS`.
    """
    for known in (DNA, MU_LAW, LINEAR, BYTES):
        if known.name == name:
            return known
    if name == TOKENS:
        raise InputError("the model reads the ids of a tokenizer, not files: call it from Python")
    raise InputError(f"there is no alphabet {name!r}; known: dna, mu_law, linear, bytes")
