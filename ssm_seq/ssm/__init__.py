"""The mathematics of state spaces: functions on tensors, exact in float64, in the order of the thesis.

`hippo`, `basis`, `nplr`, `diagonal_init`: which system. `project`: what its state remembers. `discretise`,
`rate`: from continuous to discrete time. `views`, `kernel`: how to run it. `gates`, `kalman`: its kin.
"""

from ssm_seq.ssm.basis import basis
from ssm_seq.ssm.diagonal_init import s4d_inv, s4d_legs, s4d_lin, s4d_real
from ssm_seq.ssm.discretise import (
    backward_euler,
    bilinear,
    discretise,
    forward_euler,
    generalised_bilinear,
    zero_order_hold,
)
from ssm_seq.ssm.gates import ema, gate
from ssm_seq.ssm.hippo import hippo
from ssm_seq.ssm.kalman import Beliefs, kalman_filter, rts_smoother
from ssm_seq.ssm.kernel import (
    kernel_by_doubling,
    kernel_by_powers,
    kernel_dplr,
    kernel_from_truncated,
    kernel_vandermonde,
    truncated_C,
)
from ssm_seq.ssm.matrices import DPLR, Diagonal, dense
from ssm_seq.ssm.nplr import NPLR, conjugate_half, low_rank, nplr, with_conjugates
from ssm_seq.ssm.project import project, project_scaled, reconstruct, reconstruct_scaled
from ssm_seq.ssm.rate import decimate, transfer, undo
from ssm_seq.ssm.views import (
    System,
    chunked,
    convolutional,
    convolve,
    impulse_response,
    multi_head,
    recurrent,
    sampled,
    state_basis,
    step,
)

__all__ = [
    "DPLR",
    "NPLR",
    "Beliefs",
    "Diagonal",
    "System",
    "backward_euler",
    "basis",
    "bilinear",
    "chunked",
    "conjugate_half",
    "convolutional",
    "convolve",
    "decimate",
    "dense",
    "discretise",
    "ema",
    "forward_euler",
    "gate",
    "generalised_bilinear",
    "hippo",
    "impulse_response",
    "kalman_filter",
    "kernel_by_doubling",
    "kernel_by_powers",
    "kernel_dplr",
    "kernel_from_truncated",
    "kernel_vandermonde",
    "low_rank",
    "multi_head",
    "nplr",
    "project",
    "project_scaled",
    "reconstruct",
    "reconstruct_scaled",
    "recurrent",
    "rts_smoother",
    "s4d_inv",
    "s4d_legs",
    "s4d_lin",
    "s4d_real",
    "sampled",
    "state_basis",
    "step",
    "transfer",
    "truncated_C",
    "undo",
    "with_conjugates",
    "zero_order_hold",
]
