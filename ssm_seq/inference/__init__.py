"""Recurrent mode: sequences of any length in constant memory, and generation."""

from ssm_seq.inference.engine import Engine, engine
from ssm_seq.inference.generate import Generated, generate
from ssm_seq.inference.prefix import Edit, EditScore, Prefix
from ssm_seq.inference.prompt import read_prompt
from ssm_seq.inference.score import Score, score_record
from ssm_seq.inference.state import State, concatenate, fingerprint, state_bytes
from ssm_seq.inference.stream import bits_of_windows, classify_windows
from ssm_seq.inference.variants import VariantScore, score_variants
from ssm_seq.kernels.decode import Rule

__all__ = [
    "Edit",
    "EditScore",
    "Engine",
    "Generated",
    "Prefix",
    "Rule",
    "Score",
    "State",
    "VariantScore",
    "bits_of_windows",
    "classify_windows",
    "concatenate",
    "engine",
    "fingerprint",
    "generate",
    "read_prompt",
    "score_record",
    "score_variants",
    "state_bytes",
]
