"""Recurrent mode: sequences of any length in constant memory, and generation."""

from ssm_seq.inference.generate import Generated, generate
from ssm_seq.inference.score import Score, score_record
from ssm_seq.inference.state import State, concatenate, fingerprint, state_bytes
from ssm_seq.inference.stream import bits_of_windows, classify_windows

__all__ = [
    "Generated",
    "Score",
    "State",
    "bits_of_windows",
    "classify_windows",
    "concatenate",
    "fingerprint",
    "generate",
    "score_record",
    "state_bytes",
]
