"""The page from_ssm_to_mamba.md and its figures: every number on it is computed here, by the library.

    python docs/from_ssm_to_mamba.py [FOLDER]

writes both into FOLDER, docs if there is none. See `ssm_seq.reporting.walkthrough` for the cells.
"""

import sys
from functools import partial
from pathlib import Path

import from_ssm_to_mamba_figures as figures

from ssm_seq.reporting.walkthrough import below, difference, page, save_figure

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
FIGURES = FOLDER / "figures"

# %% [markdown]
# # From SSM to Mamba
#
# A walk from one linear differential equation to a selective language model, in the order of Albert Gu's
# thesis (2023). All code on this page is the library's own, and [one script](from_ssm_to_mamba.py) runs it,
# fills in the numbers and draws the figures. The tests run that script and compare. All of it is float64 on a
# CPU.
#
# 1. [The continuous system](#1-the-continuous-system)
# 2. [HiPPO: 64 numbers remember 10,000 samples](#2-hippo-64-numbers-remember-10000-samples)
# 3. [Discretisation](#3-discretisation)
# 4. [Three views, one system](#4-three-views-one-system)
# 5. [S4: the kernel without powers](#5-s4-the-kernel-without-powers)
# 6. [S4D: the diagonal is enough](#6-s4d-the-diagonal-is-enough)
# 7. [A gate is a discretised SSM](#7-a-gate-is-a-discretised-ssm)
# 8. [Selection: S6 and Mamba](#8-selection-s6-and-mamba)
# 9. [Where everything lives](#9-where-everything-lives)
#
# ## 1. The continuous system
#
# A state space model (SSM) maps a signal u(t) to a signal y(t) through a state x(t) of N numbers:
#
# ```
# x'(t) = A x(t) + B u(t)
# y(t)  = C x(t) + D u(t)
# ```
#
# The oldest example is a weight on a spring. Its state is place and speed, so N = 2. Push it for an instant:
# what follows is its impulse response, C exp(tA) B.

# %%
import torch

from ssm_seq.ssm import System, hippo, impulse_response, state_basis

spring = System(
    A=torch.tensor([[0.0, 1.0], [-25.0, -1.0]], dtype=torch.float64),  # stiffness 25, friction 1
    B=torch.tensor([[0.0], [1.0]], dtype=torch.float64),
    C=torch.tensor([[1.0, 0.0]], dtype=torch.float64),
)
t = torch.linspace(0, 5, 501, dtype=torch.float64)
response = impulse_response(spring, t)[:, 0, 0]
ratio = response.max() / -response.min()  # of two swings in a row

# %% [markdown]
# Each swing is {ratio:.2f} times the next, the other way. The state remembers the push, and forgets it in its
# own rhythm. Any output is a weighted past: y(t) is the integral of C exp(sA) B u(t - s) over all lags s. So
# A and B decide *what is remembered*: the N functions exp(sA) B weigh the past, one for each number in the
# state. HiPPO turns this around. Choose good weights first, then ask for the A and B that have them. Scaled
# Legendre polynomials (LegS) give

# %%
from ssm_seq.ssm import basis

A, B = hippo("legs", 64)
lags = torch.linspace(0, 4, 401, dtype=torch.float64)
weights = state_basis(A, B, lags)[..., 0]  # exp(sA) B
legendre = torch.exp(-lags)[:, None] * basis("legs", 64, lags)  # e^-s sqrt(2n + 1) P_n(2 e^-s - 1)
legendre_error = below(difference(weights, legendre), 1e-9)

# %% [markdown]
# functions that differ from the polynomials themselves by {legendre_error} of the largest value.
#
# ![Impulse response of a spring, and HiPPO-LegS's basis functions](figures/impulse_responses.svg)

# %% figure
save_figure(FIGURES / "impulse_responses.svg", figures.impulse_responses, t, response, lags, weights)

# %% [markdown]
# ## 2. HiPPO: 64 numbers remember 10,000 samples
#
# The state holds coefficients of the past in an orthogonal basis. Coefficients times basis give the past
# back. For LegS the whole past counts alike, with x' = (A x + B u) / t, and no time scale has to be chosen.
# We feed four signals of 10,000 samples, with up to 5, 10, 15 and 20 cycles, and keep 64 numbers of each. One
# sample comes in, 64 numbers change; nothing else is stored.

# %%
from ssm_seq.ssm import project_scaled, reconstruct_scaled

L, CYCLES = 10_000, [5, 10, 15, 20]
now = torch.arange(L, dtype=torch.float64) / L
signals = torch.stack(
    [sum(torch.sin(2 * torch.pi * j * now) / j**0.5 for j in range(1, most + 1)) for most in CYCLES], dim=1
)
coefficients = project_scaled(signals, N=64)  # (10,000, 4, 64): after every sample


def rmse_after(k):
    """Of the first k samples, given back by the 64 numbers after them; relative to the signals' size."""
    remembered = reconstruct_scaled(coefficients[k - 1], (torch.arange(k, dtype=torch.float64) + 0.5) / k).T
    return ((remembered - signals[:k]).norm(dim=0) / signals[:k].norm(dim=0)).tolist()


rmse, rmse_halfway = rmse_after(L), rmse_after(L // 2)

# %% [markdown]
# | cycles in 10,000 samples | relative RMSE after 10,000 samples | after 5,000 |
# | ---: | ---: | ---: |
# | 5 | {rmse[0]:.2%} | {rmse_halfway[0]:.2%} |
# | 10 | {rmse[1]:.2%} | {rmse_halfway[1]:.2%} |
# | 15 | {rmse[2]:.2%} | {rmse_halfway[2]:.2%} |
# | 20 | {rmse[3]:.2%} | {rmse_halfway[3]:.2%} |
#
# After 5,000 samples the same numbers held the first half. Of 20 cycles only 10 had passed, and 64
# polynomials hold those easily. Slow signals are limited by the samples: twice as many of the same signal
# halve the error. With fewer numbers the fast changes are lost.
#
# ![A signal and what 64 and 24 numbers remember of it](figures/memory.svg)

# %% figure
narrow = project_scaled(signals[:, 3], N=24)
save_figure(FIGURES / "memory.svg", figures.memory, signals[:, 3], coefficients[:, 3], narrow)

# %% [markdown]
# ## 3. Discretisation
#
# Data come in samples, delta apart. A rule turns (A, B) into (Abar, Bbar) of
#
# ```
# x_k = Abar x_(k-1) + Bbar u_k
# y_k = C x_k + D u_k
# ```
#
# Four rules: forward Euler, backward Euler, bilinear (S4), zero-order hold (S4D, Mamba). We drive the spring
# with a sine for one second and halve the step again and again. The exact end is known: sine and spring
# together are one linear system of four numbers.

# %%
from ssm_seq.ssm import discretise, recurrent, sampled

METHODS = ["forward_euler", "backward_euler", "bilinear", "zero_order_hold"]
STEPS = [2**i for i in range(3, 12)]
both = torch.zeros(4, 4, dtype=torch.float64)
both[:2, :2], both[:2, 2:3] = spring.A, spring.B
both[2, 3], both[3, 2] = 3, -3  # u(t) = sin(3t), of which x_2 = u, x_3 = u' / 3
exact = torch.linalg.matrix_exp(both)[:2, 3]


def end_after(method, steps):
    """The state after one second; each step sees the input in its middle."""
    middles = (torch.arange(steps, dtype=torch.float64)[:, None] + 0.5) / steps
    return recurrent(sampled(spring, 1 / steps, method), torch.sin(3 * middles))[1]


errors = {method: [(end_after(method, n) - exact).norm().item() for n in STEPS] for method in METHODS}
order = {method: torch.tensor(e[-2] / e[-1]).log2().item() for method, e in errors.items()}

# %% [markdown]
# | rule | order of convergence, measured |
# | --- | ---: |
# | forward Euler | {order[forward_euler]:.2f} |
# | backward Euler | {order[backward_euler]:.2f} |
# | bilinear | {order[bilinear]:.2f} |
# | zero-order hold | {order[zero_order_hold]:.2f} |
#
# ![Error of the four rules against the number of steps](figures/discretisation.svg)
#
# Forward Euler is the only one that can grow though the spring is damped: with steps that are too long it
# explodes. Zero-order hold is of second order here because the sine is not held. For an input that is
# constant over each step it is exact, at any step. Therefore two short steps under one input are exactly one
# long step, K(2 delta)[k] = K(delta)[2k] + K(delta)[2k + 1], and a trained system moves to another sampling
# rate without training. `transfer` does it from Abar and Bbar alone.

# %%
from ssm_seq.ssm import kernel_by_powers, transfer

fine, coarse = (sampled(spring, delta) for delta in (0.01, 0.02))
K_fine, K_coarse = (kernel_by_powers(s.A, s.B, s.C, n)[:, 0, 0] for s, n in ((fine, 400), (coarse, 200)))
pairs_error = below(difference(K_fine[::2] + K_fine[1::2], K_coarse), 1e-12)
moved, _ = transfer(fine.A, fine.B, rate=2)
rate_error = below(difference(moved, coarse.A), 1e-12)

# %% [markdown]
# The two sides differ by {pairs_error}, the transferred Abar by {rate_error}.

# %% figure
save_figure(FIGURES / "discretisation.svg", figures.discretisation, STEPS, errors)

# %% [markdown]
# ## 4. Three views, one system
#
# - **Recurrent**: one sample after another, N numbers in memory. For generation and streams.
# - **Convolutional**: y = K * u with K_k = C Abar^k Bbar, by FFT. For training: all positions at once.
# - **Continuous**: the impulse response, integrated over each step in which the input is held.
#
# And between the first two, **chunked**: a convolution within each chunk, the state from chunk to chunk. This
# is how the library reads a genome in one pass.

# %%
from ssm_seq.ssm import chunked, convolutional, convolve

generator = torch.Generator().manual_seed(0)
normal = partial(torch.randn, generator=generator, dtype=torch.float64)
continuous = System(*hippo("legs", 16), C=normal(1, 16))
delta, u = 0.01, normal(1000, 1)
discrete = sampled(continuous, delta)

y, last_state = recurrent(discrete, u)
by_convolution = convolutional(discrete, u)
by_chunks, last_of_chunks = chunked(discrete, u, chunk=300)

nodes = 0.5 + torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64) * 0.15**0.5  # Gauss's rule of three points
parts = torch.tensor([5.0, 8.0, 5.0], dtype=torch.float64) / 18
at = impulse_response(continuous, ((torch.arange(1000)[:, None] + nodes) * delta).flatten())
by_integral = convolve((at.unflatten(0, (1000, 3)) * parts[:, None, None]).sum(1) * delta, u)

convolution_error = below(difference(by_convolution, y), 1e-10)
chunks_error = below(max(difference(by_chunks, y), difference(last_of_chunks, last_state)), 1e-10)
integral_error = below(difference(by_integral, y), 1e-6)

# %% [markdown]
# | against the recurrence | largest relative difference |
# | --- | --- |
# | convolution | {convolution_error} |
# | chunks of 300, outputs and last state | {chunks_error} |
# | impulse response, integrated with three points a step | {integral_error} |
#
# ## 5. S4: the kernel without powers
#
# The convolution needs its kernel, and K_k = C Abar^k Bbar by definition costs a product with an N x N matrix
# for each of L positions. S4 removes it in three steps.
#
# 1. **Diagonal plus low rank.** HiPPO's A can't be diagonalised in floating point: its eigenvectors grow like
#    2^(4N/3). But A + P P* is normal, so with a unitary V it is A = V (Lambda - P P*) V*, and no digit is
#    lost.
# 2. **Generating function.** The sum of K_k z^k over k < L is Ctilde (I - z Abar)^-1 Bbar: one inverse in
#    place of L powers. An FFT of its values at the roots of unity gives K.
# 3. **Woodbury and Cauchy.** The inverse of diagonal plus rank one is that of the diagonal, corrected. What
#    is left are four sums over n of a_n b_n / (z - lambda_n).

# %%
from ssm_seq.ssm import dense, kernel_dplr, nplr

legs = nplr("legs", 64)
reassembled = legs.V @ dense(legs.A) @ legs.V.mH
nplr_error = below(difference(reassembled, hippo("legs", 64)[0]), 1e-12)

C, step = normal(1, 64), 1e-3
Abar, Bbar = discretise(*hippo("legs", 64), step, "bilinear")
by_definition = kernel_by_powers(Abar, Bbar, C, 1024)
dplr_error = below(
    difference(kernel_dplr(legs.A, legs.B, C.to(legs.V) @ legs.V, step, 1024, real=True), by_definition), 1e-9
)

# %% [markdown]
# With N = 64 and L = 1,024: A is put together again with an error of {nplr_error}, and S4's kernel differs
# from the powers by {dplr_error}.
#
# | kernel | operations | in the library |
# | --- | --- | --- |
# | powers | N² L | `kernel_by_powers` |
# | LSSL, doubling | N³ log L + N² L | `kernel_by_doubling` |
# | S4 | N L + L log L | `kernel_dplr`, `kernel_from_truncated` |
# | S4D | N L | `kernel_vandermonde` |
#
# ![Time of the ways to the kernel against N and against L](figures/kernel_cost.svg)
#
# The powers pay twice: N² operations a position, and L products that must wait for each other. The S4 paper's
# N + L, up to logarithms, is for Cauchy sums by a fast multipole method; here the N L terms are just added
# up, but none of them is kept: in memory it is N + L. "From C" takes four times as many points as "from
# Ctilde" and no power of Abar; where the length is fixed, Ctilde itself can be learned. Doubling is made of
# large matrix products, which machines are good at, so it keeps up while N is small; within blocks of 64
# positions the S4 layer does it too, since it needs the states between them anyway. Longer kernels and more
# channels are in [results/s4_kernel.svg](results/s4_kernel.svg).

# %% figure
by_L = {L: figures.kernel_seconds(64, L) for L in (256, 1024, 4096, 16_384)}
by_N = {N: figures.kernel_seconds(N, 2048) for N in (16, 32, 64, 128, 256)}
save_figure(FIGURES / "kernel_cost.svg", figures.kernel_cost, by_L, by_N)

# %% [markdown]
# ## 6. S4D: the diagonal is enough
#
# Drop P P*, and the kernel is a plain sum of exponentials, K_k = sum over n of C_n Lambda_n^k B_n. With
# HiPPO's Lambda and half of its B that is not just another system. Its basis functions are those of LegS plus
# ripples. The larger N, the faster the ripples, and a state that integrates its input does not feel them.
# Here the input steps from 0 to 1 and we watch the first four states:

# %%
from ssm_seq.ssm import Diagonal, s4d_legs, zero_order_hold

since = torch.linspace(0.02, 3, 150, dtype=torch.float64)  # the step


def after_step(N):
    """The first four states of S4D-LegS, in LegS's coordinates."""
    Lambda, half_B = s4d_legs(N)
    _, states = zero_order_hold(Diagonal(Lambda), half_B, since)  # integral of exp(sA) B
    return 2 * (nplr("legs", N).V[:4, : N // 2] @ states)[..., 0].real


_, by_legs = zero_order_hold(*hippo("legs", 4), since)  # A is triangular: more states change nothing
by_diagonal = {N: after_step(N) for N in (4, 16, 64, 256)}
without_P = {N: difference(states, by_legs[..., 0]) for N, states in by_diagonal.items()}

# %% [markdown]
# | N | largest difference between S4D-LegS and LegS, relative |
# | ---: | ---: |
# | 4 | {without_P[4]:.1%} |
# | 16 | {without_P[16]:.1%} |
# | 64 | {without_P[64]:.1%} |
# | 256 | {without_P[256]:.1%} |
#
# Its eigenvalues follow a simple law, S4D-Inv. S4D-Lin is simpler still, a damped Fourier series; it is what
# the layer starts from.
#
# ![Eigenvalues of three initialisations; a state of LegS and of S4D-LegS after a step](figures/diagonal.svg)

# %% figure
save_figure(FIGURES / "diagonal.svg", figures.diagonal, since, by_legs[..., 0], by_diagonal)

# %% [markdown]
# ## 7. A gate is a discretised SSM
#
# The smallest SSM is x' = -x + u with N = 1. Discretised it is an exponential moving average, x_k = (1 - g)
# x_(k-1) + g u_k. Backward Euler with delta = exp(z) makes g = sigmoid(z), the gate of an LSTM or GRU. So
# does zero-order hold with delta = softplus(z), which is Mamba's choice.

# %%
from ssm_seq.ssm import ema, gate

z = torch.linspace(-10, 10, 201, dtype=torch.float64)
gate_error = below(
    max(difference(gate(z, rule)[1], torch.sigmoid(z)) for rule in ("backward_euler", "zero_order_hold")),
    1e-12,
)

# %% [markdown]
# Both differ from sigmoid(z) by {gate_error}. **A gate is a time step.** A small delta keeps the state and
# skips the input; a large delta drops the state and takes the input. In every system so far delta was one
# constant. In a recurrent network z depends on the input. That is all that selection needs.
#
# ## 8. Selection: S6 and Mamba
#
# S6 lets delta, B and C depend on the input:
#
# ```
# x_t = exp(delta_t A) x_(t-1) + delta_t B_t u_t
# y_t = C_t x_t + D u_t
# ```
#
# Here is what that buys. Noise comes in, now and then a sample is marked, and the task is to hold the last
# marked one. With A = -1 and z = ±20 as the mark, the scan is the gated recurrence of section 7.

# %%
import torch.nn.functional as F

from ssm_seq.kernels import selective_scan

noise = normal(400)
marked = torch.zeros(400, dtype=torch.bool)
marked[[10, 60, 150, 180, 290]] = True
z = torch.where(marked, 20.0, -20.0).double()
delta = F.softplus(z)
B = -torch.expm1(-delta) / delta  # delta B is then the gate, sigmoid(z)
one = torch.ones(1, 1, dtype=torch.float64)
held, _ = selective_scan(noise[None, :, None], delta[None, :, None], -one, B[None, :, None], one)

last = torch.cummax(torch.where(marked, torch.arange(400), -1), dim=0).values
wanted = torch.where(last < 0, 0.0, noise[last.clamp(min=0)])
held_error = below(difference(held[0, :, 0], wanted), 1e-6)

averages = [recurrent(ema(alpha), noise[:, None])[0][:, 0] for alpha in (0.01, 0.03, 0.1, 0.3)]
best_average = min(((y - wanted).norm() / wanted.norm()).item() for y in averages)

# %% [markdown]
# The state of one number holds what it should, with an error of {held_error}. No time-invariant system can:
# it treats every sample alike. The best of four moving averages is {best_average:.0%} off.
#
# ![Noise with five marked samples, the selective state and a moving average](figures/selection.svg)

# %% figure
save_figure(FIGURES / "selection.svg", figures.selection, noise, marked, held[0, :, 0], averages[1])

# %% [markdown]
# The price: the kernel now differs from position to position, so there is no convolution and no FFT. Nothing
# else is lost. Take the selection away, and the scan is S4D with real eigenvalues again:

# %%
from ssm_seq.ssm import kernel_vandermonde, s4d_real

channels, N, L = 3, 8, 500
A = s4d_real(N).expand(channels, N)
u, step = normal(1, L, channels), torch.tensor([0.02, 0.1, 0.5], dtype=torch.float64)
B, C = normal(channels, N), normal(channels, N)
y, _ = selective_scan(u, step.expand(1, L, channels), A, B, C)

Abar = Diagonal(torch.exp(step[:, None] * A))
kernel = kernel_vandermonde(Abar, (step[:, None] * B)[..., None], C[:, None], L)
as_s4d = convolve(kernel, u[0].T[..., None])[..., 0].T
constant_error = below(difference(y[0], as_s4d), 1e-10)

# %% [markdown]
# They differ by {constant_error}. With selection, the recurrence is still linear in the state. Over a whole
# stretch of positions the old state just fades by exp(A · sum of delta), whatever the inputs were:

# %%
delta = F.softplus(normal(1, L, channels) - 4)
B, C = normal(1, L, N), normal(1, L, N)
before = normal(1, channels, N)
y, after = selective_scan(u, delta, A, B, C, initial_state=before)
_, from_zero = selective_scan(u, delta, A, B, C)
fade = torch.exp(A * delta.sum(1)[..., None])
fade_error = below(difference(fade * before + from_zero, after), 1e-10)

# %% [markdown]
# Both sides differ by {fade_error}. So a long sequence can be cut. Every chunk is scanned at the same time
# from a zero state, the fades carry the states over, and a GPU is busy everywhere. `selective_scan` does that
# ([how it runs](kernels.md)); it never holds the states of all positions, and its time grows in proportion to
# the length.
#
# ![Time of the selective scan against length on one H100](results/kernels_by_length.svg)
#
# The Mamba layer puts it behind a projection and a short convolution, and multiplies with a gate. There are
# others on the road: LSSL keeps A dense, DSS divides S4D's kernel by a softmax, S5 is one diagonal system for
# all channels together, EMA has real modes alone, H3 multiplies what a shift and a diagonal system remember.
# All layers obey one law: a whole sequence = any chunks = single steps, outputs and state.

# %%
from ssm_seq.layers import DSS, EMA, H3, LSSL, S4, S4D, S5, Mamba


def law(layer, x):
    """The largest difference of chunks and of steps from the whole, in outputs."""
    whole, state = layer(x)[0], layer.initial_state(len(x))
    first, carried = layer(x[:, :70])
    chunks = torch.cat([first, layer(x[:, 70:], carried)[0]], dim=1)
    steps = []
    for x_t in x.unbind(1):
        y_t, state = layer.step(x_t, state)
        steps.append(y_t)
    return max(difference(chunks, whole), difference(torch.stack(steps, dim=1), whole))


torch.manual_seed(0)
x = normal(2, 200, 8)
with torch.no_grad():
    kinds = (LSSL, S4, S4D, DSS, S5, EMA, H3, Mamba)
    law_of = {kind.__name__: below(law(kind(d_model=8).double(), x), 1e-9) for kind in kinds}

# %% [markdown]
# | layer | chunks and steps against the whole |
# | --- | --- |
# | LSSL | {law_of[LSSL]} |
# | S4 | {law_of[S4]} |
# | S4D | {law_of[S4D]} |
# | DSS | {law_of[DSS]} |
# | S5 | {law_of[S5]} |
# | EMA | {law_of[EMA]} |
# | H3 | {law_of[H3]} |
# | Mamba | {law_of[Mamba]} |
#
# ## 9. Where everything lives
#
# | system | `ssm_seq.ssm` | to train and run |
# | --- | --- | --- |
# | SSM, three views | `System`, `impulse_response`, `recurrent`, `convolutional`, `chunked` | |
# | many heads, SISO and MIMO | `multi_head` | |
# | HiPPO: LegS, LegT, LagT, Fourier | `hippo`, `basis`, `nplr` | |
# | online memory | `project`, `project_scaled`, `reconstruct`, `reconstruct_scaled` | |
# | discretisation, sampling rates | `discretise`, `generalised_bilinear`; `transfer`, `undo`, `decimate` | |
# | LSSL | `kernel_by_doubling` | `ssm_seq.layers.LSSL` |
# | S4 | `kernel_dplr` | `ssm_seq.layers.S4` |
# | S4D | `kernel_vandermonde`, `s4d_legs`, `s4d_inv`, `s4d_lin`, `s4d_real` | `ssm_seq.layers.S4D` |
# | DSS, S5 | | `ssm_seq.layers.DSS`, `S5` |
# | gates, moving average | `gate`, `ema` | `ssm_seq.layers.EMA` |
# | H3, a gate, both directions | | `ssm_seq.layers.H3`, `Gated`, `Bidirectional` |
# | Kalman filter and smoother | `kalman_filter`, `rts_smoother` | |
# | S6 | the definition beside the kernel | `ssm_seq.kernels.selective_scan`, `selective_step` |
# | Mamba | | `ssm_seq.layers.Mamba`, `ssm_seq.kernels.mamba_mixer` |

# %% figure
(FOLDER / "from_ssm_to_mamba.md").write_text(page(Path(__file__).read_text(), globals()))
