"""Alphabets against Biopython's complement and against the mu-law formula."""

import numpy as np
import pytest
from Bio.Seq import Seq
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_seq.data.alphabet import DNA, LINEAR, MU_LAW, alphabet
from ssm_seq.errors import InputError

iupac = st.text("ACGTUNRYSWKMBDHVacgtunryswkmbdhv", min_size=1, max_size=200)


@settings(max_examples=50, deadline=None)
@given(iupac)
def test_dna_round_trip_forgets_case_and_u_alone(text):
    letters = np.frombuffer(text.encode(), np.uint8)
    assert DNA.decode(DNA.encode(letters)).tobytes().decode() == text.upper().replace("U", "T")
    assert (DNA.encode(text.encode()) == DNA.encode(letters)).all()
    assert DNA.soft_masked(letters).tolist() == [letter.islower() for letter in text]


@settings(max_examples=50, deadline=None)
@given(iupac)
def test_complement_is_biopythons(text):
    ids = DNA.encode(text.encode())
    expected = str(Seq(text.upper().replace("U", "T")).complement())
    assert DNA.decode(DNA.complement(ids)).tobytes().decode() == expected
    assert (DNA.complement(DNA.complement(ids)) == ids).all()


def test_ids_of_dna_are_fixed():
    assert DNA.size == 15
    assert DNA.encode(b"ACGTNacgtnUu").tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 3, 3]
    assert sorted(DNA.encode(b"RYSWKMBDHV").tolist()) == list(range(5, 15))


def test_a_letter_outside_is_named_with_its_position():
    with pytest.raises(InputError, match="position 3: 'E'"):
        DNA.encode(b"ACEGT")


@pytest.mark.parametrize("sound", [MU_LAW, LINEAR], ids=lambda sound: sound.name)
def test_every_code_of_sound_survives(sound):
    codes = np.arange(256, dtype=np.uint8)
    assert (sound.encode(codes) == codes).all() and (sound.decode(codes) == codes).all()
    assert (sound.encode_waveform(sound.decode_waveform(codes)) == codes).all()
    assert (np.diff(sound.decode_waveform(codes)) > 0).all()
    assert not sound.soft_masked(codes).any()


@pytest.mark.parametrize("sound", [MU_LAW, LINEAR], ids=lambda sound: sound.name)
def test_sound_is_clamped_and_symmetric(sound):
    samples = np.array([-1.5, -1.0, 1.0, 1.5, -np.inf, np.inf])
    assert sound.encode_waveform(samples).tolist() == [0, 0, 255, 255, 0, 255]
    decoded = sound.decode_waveform(np.arange(256, dtype=np.uint8))
    np.testing.assert_allclose(decoded, -decoded[::-1], atol=1e-7)
    assert abs(decoded).max() < 1


@settings(max_examples=200, deadline=None)
@given(st.floats(-1, 1))
def test_error_of_sound_is_half_a_step(sample):
    x = np.array([sample])
    assert abs(LINEAR.decode_waveform(LINEAR.encode_waveform(x)) - x)[0] <= 1 / 256 + 1e-7
    # A step of mu-law spans a factor of 256**(1/128) in (|x| + 1/255).
    bound = (abs(sample) + 1 / 255) * (256 ** (1 / 128) - 1) / 2 + 1e-7
    assert abs(MU_LAW.decode_waveform(MU_LAW.encode_waveform(x)) - x)[0] <= bound


@settings(max_examples=100, deadline=None)
@given(st.floats(-1, 1))
def test_mu_law_is_the_compressor(sample):
    compressed = np.sign(sample) * np.log1p(255 * abs(sample)) / np.log1p(255)
    expected = np.clip(np.floor((compressed + 1) * 128), 0, 255)
    assert abs(int(MU_LAW.encode_waveform(np.array([sample]))[0]) - expected) <= (
        # Only a sample on the very edge may fall to either side.
        abs((compressed * 128) - round(compressed * 128)) < 1e-9
    )


def test_alphabets_by_name():
    assert [alphabet(name).name for name in ("dna", "mu_law", "linear")] == ["dna", "mu_law", "linear"]
    with pytest.raises(InputError, match="protein"):
        alphabet("protein")


def test_definite_ids_are_the_four_bases_and_every_code():
    assert DNA.decode(np.arange(DNA.definite)).tobytes() == b"ACGT"
    assert MU_LAW.definite == LINEAR.definite == 256
