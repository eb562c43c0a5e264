"""The smallest SSMs: the exponential moving average, and the gate of a recurrent network.

Both are x' = -x + u, N = 1, discretised: x_k = (1 - g) x_(k-1) + g u_k. What makes g a learned gate is a
delta that depends on the input (Gu et al. 2021, LSSL, lemma 3.1; Gu & Dao 2023, "Mamba", theorem 1).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_seq.ssm.discretise import discretise
from ssm_seq.ssm.matrices import Diagonal
from ssm_seq.ssm.views import System


def ema(alpha: Tensor | float) -> System:
    """The exponential moving average x_k = (1 - alpha) x_(k-1) + alpha u_k, M = P = 1, discrete.

    It is x' = -x + u by backward Euler with delta = alpha / (1 - alpha), or by zero-order hold with
    delta = -log(1 - alpha).

    Args:
        alpha: weight of the newest input, in (0, 1), a number or a tensor (...) of as many heads.

    Raises:
        ValueError: alpha outside (0, 1).
    """
    alpha = torch.as_tensor(alpha, dtype=None if isinstance(alpha, Tensor) else torch.float64)
    wrong = alpha.detach()[~((alpha > 0) & (alpha < 1))]
    if len(wrong):
        raise ValueError(f"alpha={wrong[0].item():g}: expected a weight between 0 and 1")
    alpha = alpha[..., None]
    return System(Diagonal(1 - alpha), alpha[..., None], torch.ones_like(alpha[..., None]))


def gate(
    z: Tensor, method: Literal["backward_euler", "zero_order_hold"] = "zero_order_hold"
) -> tuple[Tensor, Tensor]:
    """Abar = 1 - sigmoid(z) and Bbar = sigmoid(z) of x' = -x + u, by discretising it; like z, any shape.

    Backward Euler with delta = exp(z), or zero-order hold with delta = softplus(z), as in Mamba.

    Raises:
        ValueError: no such method; z so low that delta rounds to 0.
    """
    match method:
        case "backward_euler":
            delta = torch.exp(z)
        case "zero_order_hold":
            delta = F.softplus(z)
        case _:
            raise ValueError(f"method={method!r}: expected backward_euler or zero_order_hold")
    one = torch.ones_like(z)[..., None]
    Abar, Bbar = discretise(Diagonal(-one), one[..., None], delta, method)
    return Abar.Lambda[..., 0], Bbar[..., 0, 0]
