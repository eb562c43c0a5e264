"""Kernels of state-space models, each beside its plain definition. Channels-last: (batch, length, channels).

selective_scan, selective_step       the S6 recurrence (Mamba, Gu & Dao 2023, algorithm 2), whole or one step
causal_conv1d, causal_conv1d_step    the short depthwise convolution before it, whole or one step
rms_norm                             the norm of a residual sum, and the sum
lti_scan                             a diagonal time-invariant system (S4D): its convolution without an FFT
linear_cross_entropy                 losses of a linear head, without all of its logits
mamba_mixer                          all that a Mamba block does between its norm and its residual sum
prenorm_mamba_mixer                  the norm too, without keeping its result
decode.decoder                       whole steps of language models: layers, head and sampling
cauchy, vandermonde                  products with these matrices, without them: kernels of S4 and S4D
"""

from ssm_seq.kernels.cauchy import cauchy
from ssm_seq.kernels.causal_conv1d import causal_conv1d, causal_conv1d_step
from ssm_seq.kernels.linear_cross_entropy import linear_cross_entropy
from ssm_seq.kernels.lti_scan import lti_scan
from ssm_seq.kernels.mamba_mixer import mamba_mixer, prenorm_mamba_mixer
from ssm_seq.kernels.rms_norm import rms_norm
from ssm_seq.kernels.selective_scan import selective_scan, selective_step
from ssm_seq.kernels.vandermonde import vandermonde

__all__ = [
    "cauchy",
    "causal_conv1d",
    "causal_conv1d_step",
    "linear_cross_entropy",
    "lti_scan",
    "mamba_mixer",
    "prenorm_mamba_mixer",
    "rms_norm",
    "selective_scan",
    "selective_step",
    "vandermonde",
]
