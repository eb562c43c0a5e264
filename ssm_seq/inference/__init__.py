"""Recurrent mode: sequences of any length in constant memory, and generation."""

from ssm_seq.inference.generate import Generated, generate
from ssm_seq.inference.stream import Score, bits_of_windows, classify_windows, score_record

__all__ = ["Generated", "Score", "bits_of_windows", "classify_windows", "generate", "score_record"]
