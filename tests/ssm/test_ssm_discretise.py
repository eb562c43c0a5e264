"""Discretisation against scipy and against the differential equation itself; other sampling rates; gates."""

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.signal
import torch
import torch.nn.functional as F

from ssm_seq.ssm import (
    DPLR,
    Diagonal,
    System,
    backward_euler,
    decimate,
    dense,
    discretise,
    ema,
    forward_euler,
    gate,
    generalised_bilinear,
    hippo,
    nplr,
    recurrent,
    transfer,
    undo,
    zero_order_hold,
)
from ssm_seq.ssm.discretise import METHODS

SCIPY = {"forward_euler": "euler", "backward_euler": "backward_diff", "bilinear": "bilinear"}
every_method = pytest.mark.parametrize("method", METHODS)
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def random_dense(N, M, seed=0):
    """A stable A (N, N) and B (N, M) of no particular structure."""
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(N, N, generator=g, dtype=torch.float64)
    return A - (1 + torch.linalg.eigvals(A).real.max()) * torch.eye(N), torch.randn(
        N, M, generator=g
    ).double()


def random_dplr(N, M, rank, seed=0):
    g = torch.Generator().manual_seed(seed)
    imag = torch.randn(N, generator=g, dtype=torch.float64)
    P, B = (torch.randn(N, k, generator=g, dtype=torch.complex128) for k in (rank, M))
    return DPLR(torch.complex(-0.1 - torch.rand(N, generator=g).double(), 5 * imag), P, P), B


@every_method
def test_dense_agrees_with_scipy(method):
    A, B = random_dense(6, 2)
    ours = discretise(A, B, 0.05, method)
    C, D = np.zeros((1, 6)), np.zeros((1, 2))
    Ad, Bd, *_ = scipy.signal.cont2discrete((A.numpy(), B.numpy(), C, D), 0.05, SCIPY.get(method, "zoh"))
    np.testing.assert_allclose(ours[0], Ad, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours[1], Bd, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_generalised_bilinear_agrees_with_scipy(alpha):
    A, B = random_dense(5, 1)
    C, D = np.zeros((1, 5)), np.zeros((1, 1))
    Ad, Bd, *_ = scipy.signal.cont2discrete((A.numpy(), B.numpy(), C, D), 0.1, "gbt", alpha)
    ours = generalised_bilinear(A, B, 0.1, alpha)
    np.testing.assert_allclose(ours[0], Ad, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours[1], Bd, rtol=1e-10, atol=1e-12)


@every_method
@pytest.mark.parametrize("rank", [1, 2])
def test_the_structured_forms_agree_with_the_dense_one(method, rank):
    A, B = random_dplr(7, 3, rank)
    for form in (A, Diagonal(A.Lambda)):
        ours, expected = discretise(form, B, 0.2, method), discretise(dense(form), B, 0.2, method)
        torch.testing.assert_close(dense(ours[0]), expected[0], **EXACT)
        torch.testing.assert_close(ours[1], expected[1], **EXACT)
        if isinstance(form, Diagonal) or method != "zero_order_hold":
            assert type(ours[0]) is type(form)


@every_method
def test_many_systems_at_once(method):
    """Leading dimensions and a delta of each: the same as one by one."""
    deltas = torch.tensor([0.01, 0.5, 2.0], dtype=torch.float64)
    A, B = random_dplr(4, 2, 1)
    heads = DPLR(*(part.expand(3, *part.shape) for part in A))
    for form, one in ((heads, A), (Diagonal(heads.Lambda), Diagonal(A.Lambda)), (dense(heads), dense(A))):
        Abar, Bbar = discretise(form, B, deltas, method)
        for h, delta in enumerate(deltas.tolist()):
            expected = discretise(one, B, delta, method)
            torch.testing.assert_close(dense(Abar)[h], dense(expected[0]), **EXACT)
            torch.testing.assert_close(Bbar[h], expected[1], **EXACT)


@every_method
def test_delta_is_a_time_scale(method):
    A, B = hippo("legt", 8)
    window = 50.0
    slow = discretise(A / window, B / window, 1.0, method)
    torch.testing.assert_close(discretise(A, B, 1 / window, method), slow, **EXACT)


def states_at_1(A, B, method, steps):
    """x(1) of x' = A x + B u from 0, u(t) = sin(3t) + t at the end of each step."""
    Abar, Bbar = discretise(A, B, 1 / steps, method)
    x = torch.zeros(len(A), 1, dtype=torch.float64)
    for k in range(1, steps + 1):
        t = k / steps if method != "bilinear" else (k - 0.5) / steps
        x = Abar @ x + Bbar * (math.sin(3 * t) + t)
    return x[:, 0].numpy()


@pytest.mark.parametrize(("method", "order"), [("forward_euler", 1), ("backward_euler", 1), ("bilinear", 2)])
def test_orders_of_convergence(method, order):
    """Against an adaptive integrator; the bilinear rule sees the input's value in the middle of the step."""
    A, B = random_dense(4, 1, seed=3)
    exact = scipy.integrate.solve_ivp(
        lambda t, x: A.numpy() @ x + B.numpy()[:, 0] * (math.sin(3 * t) + t),
        (0, 1),
        np.zeros(4),
        rtol=1e-12,
        atol=1e-13,
    ).y[:, -1]
    errors = [np.linalg.norm(states_at_1(A, B, method, steps) - exact) for steps in (64, 128, 256)]
    for coarse, fine in itertools.pairwise(errors):
        assert abs(math.log2(coarse / fine) - order) < 0.1


@pytest.mark.parametrize("delta", [0.01, 0.4, 3.0])
def test_zero_order_hold_is_exact_for_held_inputs(delta):
    A, B = hippo("legs", 6)
    g = torch.Generator().manual_seed(0)
    inputs = torch.randn(5, generator=g).tolist()
    Abar, Bbar = zero_order_hold(A, B, delta)
    x, exact, closed = torch.zeros(6, 1, dtype=torch.float64), np.zeros(6), np.append(np.zeros(6), 1)
    for u in inputs:
        x = Abar @ x + Bbar * u
        # With the input as a seventh state that stays: (x, 1)' = [[A, B u], [0, 0]] (x, 1).
        held = np.block([[A.numpy(), B.numpy() * u], [np.zeros((1, 7))]])
        closed = scipy.linalg.expm(delta * held) @ closed
        np.testing.assert_allclose(x[:, 0], closed[:6], rtol=1e-10, atol=1e-11)
        exact = scipy.integrate.solve_ivp(
            lambda t, x, u=u: A.numpy() @ x + B.numpy()[:, 0] * u,
            (0, delta),
            exact,
            "LSODA",
            rtol=1e-12,
            atol=1e-13,
        ).y[:, -1]
        np.testing.assert_allclose(x[:, 0], exact, rtol=1e-8, atol=1e-9)


def test_hold_of_singular_and_of_tiny_matrices():
    integrator = zero_order_hold(torch.zeros(1, 1).double(), torch.ones(1, 1).double(), 0.25)
    torch.testing.assert_close(integrator, (torch.ones(1, 1).double(), torch.full((1, 1), 0.25).double()))
    Lambda = torch.tensor([0, -1e-12, -1e-12 + 1e-12j, 1j, -3], dtype=torch.complex128)
    Abar, Bbar = zero_order_hold(Diagonal(Lambda), torch.ones(5, 1).double(), 0.5)
    torch.testing.assert_close(Abar.Lambda, torch.exp(0.5 * Lambda), **EXACT)
    expected = torch.tensor([0.5, 0.5, 0.5, (np.exp(0.5j) - 1) / 1j, (1 - np.exp(-1.5)) / 3]).to(Lambda)
    torch.testing.assert_close(Bbar[:, 0], expected, rtol=1e-7, atol=1e-11)


@every_method
@pytest.mark.parametrize("form", ["dense", "diagonal", "dplr"])
def test_undo_finds_the_continuous_system(method, form):
    A, B = random_dplr(5, 2, 1)
    A = {"dense": dense(A), "diagonal": Diagonal(A.Lambda), "dplr": A}[form]
    back = undo(*discretise(A, B, 0.1, method), 0.1, method)
    torch.testing.assert_close(dense(back[0]), dense(A), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(back[1], B, rtol=1e-9, atol=1e-10)


@every_method
@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0, 3.7])
def test_transfer_to_another_rate_is_exact(method, rate):
    """What training at one rate gave is, moved, what discretising the same A and B at the other gives."""
    for A, B in (
        hippo("legs", 8),
        (
            Diagonal(torch.tensor([-0.5 + 3j, -0.5 - 3j]).to(torch.complex128)),
            torch.ones(2, 1).to(torch.complex128),
        ),
    ):
        moved = transfer(*discretise(A, B, 0.05, method), rate, method)
        expected = discretise(A, B, 0.05 * rate, method)
        torch.testing.assert_close(dense(moved[0]), dense(expected[0]), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(moved[1], expected[1], rtol=1e-9, atol=1e-10)


@every_method
@pytest.mark.parametrize("rate", [1, 2, 5])
def test_decimation_keeps_every_rate_th_state(method, rate):
    A, B = random_dplr(4, 2, 1)
    u = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for form in (A, Diagonal(A.Lambda), dense(A)):
        Abar, Bbar = discretise(form, B, 0.2, method)
        C = torch.eye(4, dtype=torch.complex128)
        slow = states(*decimate(Abar, Bbar, rate), C, u)
        fast = states(Abar, Bbar, C, u.repeat_interleave(rate, dim=0))
        torch.testing.assert_close(slow, fast[rate - 1 :: rate], **EXACT)


def states(Abar, Bbar, C, u):
    return recurrent(System(Abar, Bbar, C), u)[0]


def test_the_two_transfers_agree_for_zero_order_hold():
    A, B = hippo("legt", 8)
    bars = zero_order_hold(A, B, 0.02)
    torch.testing.assert_close(transfer(*bars, 3.0), decimate(*bars, 3), rtol=1e-9, atol=1e-10)


def test_backward_euler_and_hold_are_the_sigmoid_gate():
    """x' = -x + u: delta = exp(z) backward, delta = softplus(z) with the hold (Mamba, theorem 1)."""
    z = torch.linspace(-20, 20, 41, dtype=torch.float64)
    for method in ("backward_euler", "zero_order_hold"):
        Abar, Bbar = gate(z, method)
        torch.testing.assert_close(Bbar, torch.sigmoid(z), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(Abar, torch.sigmoid(-z), rtol=1e-12, atol=1e-14)
    # The same once more with a dense A, where no formula is shared.
    for z_k in (-2.0, 0.0, 1.5):
        minus, one = -torch.ones(1, 1).double(), torch.ones(1, 1).double()
        for _, Bbar in (
            backward_euler(minus, one, math.exp(z_k)),
            zero_order_hold(minus, one, F.softplus(torch.tensor(z_k).double())),
        ):
            assert abs(Bbar.item() - 1 / (1 + math.exp(-z_k))) < 1e-12


def test_gates_have_gradients():
    z = torch.linspace(-3, 3, 5, dtype=torch.float64, requires_grad=True)
    for method in ("backward_euler", "zero_order_hold"):
        (gradient,) = torch.autograd.grad(gate(z, method)[1].sum(), z)
        s = torch.sigmoid(z)
        torch.testing.assert_close(gradient, s * (1 - s))


def test_moving_average():
    u = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, _ = recurrent(ema(0.2), u[:, None])
    np.testing.assert_allclose(y[:, 0], scipy.signal.lfilter([0.2], [1, -0.8], u), rtol=1e-12)
    for delta, method in ((0.2 / 0.8, "backward_euler"), (-math.log(0.8), "zero_order_hold")):
        Abar, Bbar = discretise(Diagonal(-torch.ones(1).double()), torch.ones(1, 1).double(), delta, method)
        torch.testing.assert_close(Abar.Lambda, ema(0.2).A.Lambda, **EXACT)
        torch.testing.assert_close(Bbar, ema(0.2).B, **EXACT)


@pytest.mark.parametrize("form", ["dense", "diagonal", "dplr"])
@every_method
def test_gradients(method, form):
    A, B = random_dplr(3, 2, 1)
    delta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    parts = {"dense": [dense(A)], "diagonal": [A.Lambda], "dplr": list(A)}[form]
    parts = [part.clone().requires_grad_() for part in parts]
    kind = {"dense": lambda A: A, "diagonal": Diagonal, "dplr": DPLR}[form]

    def function(delta, B, *parts):
        Abar, Bbar = discretise(kind(*parts), B, delta, method)
        return torch.view_as_real(dense(Abar)), torch.view_as_real(Bbar)

    assert torch.autograd.gradcheck(function, (delta, B.requires_grad_(), *parts))


def test_hippo_is_stable_in_both_precisions():
    for measure in ("legs", "legt", "lagt", "fourier_truncated", "fourier_decayed", "fourier_diagonal"):
        A, B = hippo(measure, 256)
        discretise(A, B, 0.01, "forward_euler")
        discretise(A.float(), B.float(), 0.01, "forward_euler")
        system = nplr(measure, 64)
        discretise(system.A, system.B, 0.01, "bilinear")


one = torch.ones(1, 1).double()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: discretise(-one, one, 0.0), "delta=0: expected a positive number, time steps go forward"),
        (lambda: discretise(-one, one, torch.tensor([0.1, -0.2])), "delta=-0.2: expected a positive"),
        (lambda: discretise(-one, one, math.nan, "bilinear"), "delta=nan: expected a positive number"),
        (lambda: discretise(-one, one, 0.1, "tustin"), "method='tustin': there is no such method; known:"),
        (lambda: discretise(one / 4, one, 0.1), "A: an eigenvalue has the real part 0.25 > 0"),
        (
            lambda: forward_euler(Diagonal(torch.tensor([-1.0, 0.5])), torch.ones(2, 1), 0.1),
            "A: an eigenvalue",
        ),
        (
            lambda: backward_euler(
                DPLR(torch.zeros(2), torch.ones(2, 1), -torch.ones(2, 1)), torch.ones(2, 1), 1.0
            ),
            "A: an eigenvalue has the real part 2 > 0",
        ),
        (lambda: discretise(one * math.nan, one, 0.1), "A: an entry is infinite or not a number"),
        (
            lambda: discretise(Diagonal(torch.tensor([-math.inf])), torch.ones(1, 1), 0.1),
            "A: an entry is infinite or not a number",
        ),
        (lambda: generalised_bilinear(-one, one, 0.1, 1.5), "alpha=1.5: expected a weight from 0"),
        (lambda: transfer(one / 2, one, 0.0), "rate=0: expected a positive number"),
        (lambda: transfer(one / 2, one, -2.0, "bilinear"), "rate=-2: expected a positive number"),
        (lambda: decimate(one / 2, one, 0), "rate=0: expected a positive number"),
        (lambda: decimate(one / 2, one, 1.5), "rate=1.5: every rate-th sample is kept"),
        (lambda: undo(-one / 2, one, 1.0), "Abar: it has a negative eigenvalue"),
        (
            lambda: undo(Diagonal(torch.tensor([-0.5])), torch.ones(1, 1), 1.0),
            "Abar: it has a negative eigenvalue",
        ),
        (lambda: undo(Diagonal(torch.tensor([0.0])), torch.ones(1, 1), 1.0), "Abar: it has the eigenvalue 0"),
        (lambda: undo(-one, one, 1.0, "bilinear"), "Abar: it has an eigenvalue that no finite A has"),
        (
            lambda: gate(torch.zeros(1), "bilinear"),
            "method='bilinear': expected backward_euler or zero_order",
        ),
        (lambda: ema(1.0), "alpha=1: expected a weight between 0 and 1"),
    ],
)
def test_bad_input_is_refused(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).startswith(sentence)
