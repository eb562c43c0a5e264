"""Root-mean-square normalisation of a residual sum."""

from ssm_seq.kernels.rms_norm.op import rms_norm

__all__ = ["rms_norm"]
