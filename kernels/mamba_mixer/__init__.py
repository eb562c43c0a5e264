"""The Mamba block between its norm and its residual sum, with little memory."""

from ssm_seq.kernels.mamba_mixer.op import mamba_mixer

__all__ = ["mamba_mixer"]
