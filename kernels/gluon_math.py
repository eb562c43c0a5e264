"""Functions of float32 tiles that Gluon kernels share."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def exp2(x):
    return gl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1
    )


@gluon.jit
def reciprocal(x):
    return gl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1
    )


@gluon.jit
def sigmoid(x, ROUGH: gl.constexpr):
    """1 / (1 + exp(-x)). ROUGH, for what is rounded to 16 bits: half of 1 + tanh(x / 2), 2e-4 exact."""
    if ROUGH:
        half = gl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [x * 0.5], dtype=gl.float32, is_pure=True, pack=1
        )
        return half * 0.5 + 0.5
    else:
        return reciprocal(1.0 + exp2(x * -1.4426950408889634))


@gluon.jit
def softplus(x, ROUGH: gl.constexpr):
    """max(x, 0) + log(1 + e), e = exp(-|x|): e times a polynomial, exact for tiny e too (ROUGH: to 8e-6)."""
    e = exp2(gl.abs(x) * -1.4426950408889634)
    if ROUGH:
        p = e * -0.023868877440690994 + 0.10122163593769073
        p = p * e - 0.2100481539964676
        p = p * e + 0.3252065181732178
        p = p * e - 0.4993613362312317
        p = p * e + 0.9999915957450867
    else:
        p = e * 0.005232629366219044 - 0.029504986479878426
        p = p * e + 0.07822556048631668
        p = p * e - 0.13663214445114136
        p = p * e + 0.1910599321126938
        p = p * e - 0.2484297901391983
        p = p * e + 0.3331909775733948
        p = p * e - 0.4999949336051941
        p = p * e + 0.9999999403953552
    return gl.maximum(x, 0.0) + e * p
