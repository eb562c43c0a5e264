"""Short causal depthwise convolution with carried state."""

from ssm_seq.kernels.causal_conv1d.op import causal_conv1d
from ssm_seq.kernels.causal_conv1d.step import causal_conv1d_step

__all__ = ["causal_conv1d", "causal_conv1d_step"]
