"""Cross entropy of a linear head, position by position, without all of its logits."""

from ssm_seq.kernels.linear_cross_entropy.op import linear_cross_entropy

__all__ = ["linear_cross_entropy"]
