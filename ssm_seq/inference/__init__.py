"""Recurrent mode: sequences of any length in constant memory, and generation."""

from ssm_seq.inference.generate import Generated, generate
from ssm_seq.inference.prefix import Edit, EditScore, Prefix
from ssm_seq.inference.score import Score, score_record
from ssm_seq.inference.state import State, concatenate, fingerprint, state_bytes
from ssm_seq.inference.stream import bits_of_windows, classify_windows
from ssm_seq.inference.variants import VariantScore, score_variants

__all__ = [
    "Edit",
    "EditScore",
    "Generated",
    "Prefix",
    "Score",
    "State",
    "VariantScore",
    "bits_of_windows",
    "classify_windows",
    "concatenate",
    "fingerprint",
    "generate",
    "score_record",
    "score_variants",
    "state_bytes",
]
