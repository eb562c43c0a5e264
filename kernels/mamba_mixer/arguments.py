"""Arguments of the mixer as a new Mamba layer has them, for tests and for measuring.

out, conv_state, ssm_state = mamba_mixer(**new_layer(batch=1, length=2**20, d_model=256))
"""

import math

import torch
from torch import Tensor


def new_layer(
    batch: int,
    length: int,
    d_model: int,
    d_state: int = 16,
    expand: int = 2,
    width: int = 4,
    device: torch.device | str = "cuda",
    dtype: torch.dtype = torch.bfloat16,
) -> dict[str, Tensor]:
    """Every argument of `mamba_mixer` but the states, with x and the matrices in `dtype`.

    Steps between 0.001 and 0.1, A from -1 to -d_state, dt_rank = ceil(d_model / 16); always the same numbers.
    """
    generator = torch.Generator(device=device).manual_seed(0)
    d_inner, dt_rank = expand * d_model, math.ceil(d_model / 16)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=dtype)

    def uniform(*shape: int, low: float, high: float) -> Tensor:
        single = torch.promote_types(dtype, torch.float32)
        return torch.empty(shape, device=device, dtype=single).uniform_(low, high, generator=generator)

    def matrix(outputs: int, inputs: int) -> Tensor:
        return uniform(outputs, inputs, low=-(inputs**-0.5), high=inputs**-0.5).to(dtype)

    steps = torch.exp(uniform(d_inner, low=math.log(1e-3), high=math.log(1e-1)))
    return {
        "x": normal(batch, length, d_model),
        "in_proj": matrix(2 * d_inner, d_model),
        "conv_weight": uniform(d_inner, width, low=-(width**-0.5), high=width**-0.5),
        "conv_bias": uniform(d_inner, low=-(width**-0.5), high=width**-0.5),
        "x_proj": matrix(dt_rank + 2 * d_state, d_inner),
        "dt_proj": matrix(d_inner, dt_rank),
        "dt_bias": steps + torch.log(-torch.expm1(-steps)),  # the inverse of softplus
        "A": -torch.arange(1.0, d_state + 1, device=device, dtype=steps.dtype).repeat(d_inner, 1),
        "D": torch.ones_like(steps),
        "out_proj": matrix(d_model, d_inner),
    }
