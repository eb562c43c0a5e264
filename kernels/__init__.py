"""Kernels of state-space models, each beside its plain definition. Channels-last: (batch, length, channels).

    selective_scan   the S6 recurrence (Mamba, Gu & Dao 2023, algorithm 2)
    causal_conv1d    the short depthwise convolution before it
"""

from ssm_seq.kernels.causal_conv1d import causal_conv1d
from ssm_seq.kernels.selective_scan import selective_scan

__all__ = ["causal_conv1d", "selective_scan"]
