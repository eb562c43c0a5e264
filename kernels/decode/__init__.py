"""Generation: whole steps of a language model (layers, head, sampling), many of them in one call."""

from ssm_seq.kernels.decode.op import decoder
from ssm_seq.kernels.decode.rule import Rule
from ssm_seq.kernels.decode.stacks import MambaStack, S4DStack

__all__ = ["MambaStack", "Rule", "S4DStack", "decoder"]
