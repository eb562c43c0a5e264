"""Sums of partial fractions, the product with a Cauchy matrix, without the matrix."""

from ssm_seq.kernels.cauchy.op import cauchy

__all__ = ["cauchy"]
