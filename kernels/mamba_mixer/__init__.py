"""The Mamba block between its norm and its residual sum, with little memory, and with the norm."""

from ssm_seq.kernels.mamba_mixer.op import mamba_mixer
from ssm_seq.kernels.mamba_mixer.prenorm import prenorm_mamba_mixer

__all__ = ["mamba_mixer", "prenorm_mamba_mixer"]
