"""Sums of complex exponentials, the product with a Vandermonde matrix, without the matrix."""

from ssm_seq.kernels.vandermonde.op import vandermonde

__all__ = ["vandermonde"]
