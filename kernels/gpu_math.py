"""Functions of float32 tiles that Triton kernels share."""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)); the square of a reciprocal root takes fewer instructions than a division."""
    root = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
    return root * root


@triton.jit
def softplus(x):
    """max(x, 0) + log(1 + e), e = exp(-|x|), as 2 artanh(e / (2 + e)): exact in float32 for tiny e too."""
    e = tl.exp2(tl.abs(x) * -1.4426950408889634)
    s = e / (e + 2.0)
    q = s * s
    p = 2.0 / 13.0 * q + 2.0 / 11.0
    p = p * q + 2.0 / 9.0
    p = p * q + 2.0 / 7.0
    p = p * q + 2.0 / 5.0
    p = p * q + 2.0 / 3.0
    p = p * q + 2.0
    return tl.maximum(x, 0.0) + s * p
