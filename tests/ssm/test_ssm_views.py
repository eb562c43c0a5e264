"""One system, three views: the same outputs; and the ways to its kernel."""

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch

from ssm_seq.ssm import (
    DPLR,
    Diagonal,
    System,
    bilinear,
    chunked,
    conjugate_half,
    convolutional,
    convolve,
    dense,
    discretise,
    hippo,
    impulse_response,
    kernel_by_doubling,
    kernel_by_powers,
    kernel_dplr,
    kernel_from_truncated,
    kernel_vandermonde,
    multi_head,
    nplr,
    recurrent,
    sampled,
    step,
    truncated_C,
)

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
FORMS = ["dense", "diagonal", "dplr"]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(form, heads=(), N=6, M=2, P=3, D=True):
    """A random stable continuous system; dense ones are real."""
    dtype = torch.float64 if form == "dense" else torch.complex128
    B, C = normal(*heads, N, M, seed=1, dtype=dtype), normal(*heads, P, N, seed=2, dtype=dtype)
    low, frequencies = normal(*heads, N, 1, seed=3, dtype=torch.complex128), normal(*heads, N, seed=4)
    Lambda = torch.complex(-0.1 - frequencies.abs(), 4 * frequencies)
    A = {
        "dense": normal(*heads, N, N, seed=5) - 6 * torch.eye(N, dtype=torch.float64),
        "diagonal": Diagonal(Lambda),
        "dplr": DPLR(Lambda, low, low),
    }[form]
    return System(A, B, C, normal(*heads, P, M, seed=6, dtype=dtype) if D else None)


@pytest.mark.parametrize("heads", [(), (4,)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["forward_euler", "backward_euler", "bilinear", "zero_order_hold"])
def test_recurrence_convolution_and_chunks_agree(form, heads, method):
    system = sampled(make(form, heads), 0.05, method)
    u = normal(3, *heads, 50, 2)
    y, last = recurrent(system, u)
    assert y.shape == (3, *heads, 50, 3) and last.shape == (3, *heads, 6)
    torch.testing.assert_close(convolutional(system, u).to(y.dtype), y, **TIGHT)
    for chunk in (1, 7, 50, 64):
        torch.testing.assert_close(chunked(system, u, chunk)[0].to(y.dtype), y, **TIGHT)
        torch.testing.assert_close(chunked(system, u, chunk)[1], last, **TIGHT)


@pytest.mark.parametrize("form", FORMS)
def test_a_state_carries_a_sequence_on(form):
    system = sampled(make(form), 0.1)
    u = normal(2, 30, 2)
    y, last = recurrent(system, u)
    _, middle = recurrent(system, u[:, :13])
    for rest, end in (recurrent(system, u[:, 13:], middle), chunked(system, u[:, 13:], 5, middle)):
        torch.testing.assert_close(rest, y[:, 13:], **TIGHT)
        torch.testing.assert_close(end, last, **TIGHT)


@pytest.mark.parametrize("form", FORMS)
def test_the_hold_samples_the_impulse_response(form):
    """y_k is the integral of C exp(sA) B u over the past, by quadrature, for u held over each step."""
    system, delta = make(form, D=False), 0.3
    u = normal(8, 2)
    y, _ = recurrent(sampled(system, delta), u)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    expected = torch.zeros_like(y)
    for k in range(8):
        for j in range(k + 1):
            s = torch.tensor((k - j + (nodes + 1) / 2) * delta)
            response = impulse_response(system, s) * torch.tensor(weights * delta / 2)[:, None, None]
            expected[k] += response.sum(0) @ u[j].to(response.dtype)
    torch.testing.assert_close(y, expected, **TIGHT)


@pytest.mark.parametrize("form", FORMS)
def test_impulse_response_is_the_matrix_exponential(form):
    system = make(form, D=False)
    response = impulse_response(system, torch.tensor([0.0, 0.2, 1.5]).double())
    for t, values in zip([0.0, float(np.float32(0.2)), 1.5], response, strict=True):
        expected = system.C.numpy() @ scipy.linalg.expm(t * dense(system.A).numpy()) @ system.B.numpy()
        np.testing.assert_allclose(values, expected, rtol=1e-10, atol=1e-11)


def test_recurrence_agrees_with_scipy():
    """scipy's state is the one before the input: x_(k+1) = A x_k + B u_k, y_k = C x_k + D u_k."""
    A, B, C, D = (part.numpy() for part in sampled(make("dense"), 0.1))
    u = normal(40, 2)
    _, expected, _ = scipy.signal.dlsim((A, B, C @ A, C @ B + D, 1.0), u.numpy())
    ours = recurrent(sampled(make("dense"), 0.1), u)[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-10)


def test_a_shorter_kernel_forgets():
    system = sampled(make("dense", D=False), 0.1)
    u = normal(60, 2)
    kernel = kernel_by_powers(system.A, system.B, system.C, 10)
    expected = torch.stack([sum(kernel[j] @ u[k - j] for j in range(min(k + 1, 10))) for k in range(60)])
    torch.testing.assert_close(convolutional(system, u, width=10), expected, **TIGHT)
    late = convolutional(system, u, width=10)[40:] - recurrent(system, u)[0][40:]
    assert 1e-4 < late.abs().max() < 0.1


@pytest.mark.parametrize("L", [1, 2, 5, 33])
def test_convolution_does_not_wrap(L):
    kernel, u = normal(L, 1, 1), normal(L, 1, seed=1)
    expected = np.convolve(kernel[:, 0, 0], u[:, 0])[:L]
    np.testing.assert_allclose(convolve(kernel, u)[:, 0], expected, rtol=1e-12, atol=1e-12)


def test_heads_are_separate_systems():
    """SISO banks (S4), MIMO (S5) and what lies between are one function."""
    u = normal(2, 20, 12)
    for H, M in ((12, 1), (3, 4), (1, 12)):
        system = sampled(make("diagonal", (H,), M=M, P=M), 0.1)
        y = multi_head(system, u)
        for h in range(H):
            one = System(Diagonal(system.A.Lambda[h]), *(part[h] for part in system[1:]))
            channels = slice(h * M, (h + 1) * M)
            expected, _ = recurrent(one, u[..., channels])
            torch.testing.assert_close(y[..., channels], expected, **TIGHT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("L", [1, 2, 3, 64, 100])
def test_every_way_to_the_kernel(form, L):
    system = make(form, (2,), D=False)
    bars = bilinear(system.A, system.B, 0.1)
    expected = kernel_by_powers(*bars, system.C, L)
    assert expected.shape == (2, L, 3, 2)
    powers = [np.linalg.matrix_power(dense(bars[0])[1].numpy(), k) for k in range(L)]
    definition = np.stack([system.C[1].numpy() @ power @ bars[1][1].numpy() for power in powers])
    np.testing.assert_allclose(expected[1], definition, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(kernel_by_doubling(dense(bars[0]), bars[1], system.C, L), expected, **TIGHT)
    if form == "diagonal":
        torch.testing.assert_close(kernel_vandermonde(*bars, system.C, L), expected, **TIGHT)
        none = system.B[..., :0]  # rank 0
        A = DPLR(system.A.Lambda, none, none)
        torch.testing.assert_close(kernel_dplr(A, system.B, system.C, 0.1, L), expected, **TIGHT)
    if form == "dplr":
        torch.testing.assert_close(kernel_dplr(system.A, system.B, system.C, 0.1, L), expected, **TIGHT)


def in_modes(measure, N, dtype=torch.complex128):
    """The measure's DPLR form, B and a random real C in its coordinates; and A, B, C as they were."""
    A, B = hippo(measure, N)
    C = normal(1, N)
    system = nplr(measure, N)
    P = system.A.P.to(dtype)
    return (
        DPLR(system.A.Lambda.to(dtype), P, P),
        system.B.to(dtype),
        (C.to(system.V.dtype) @ system.V).to(dtype),
        (A, B, C),
    )


@pytest.mark.parametrize("delta", [0.001, 0.01, 0.1])
@pytest.mark.parametrize(
    "measure", ["legs", "legt", "lagt", "fourier_truncated", "fourier_decayed", "fourier_diagonal"]
)
def test_s4_kernel_is_naive_powers(measure, delta):
    """N = 64, L = 1,024: against the powers of the HiPPO matrix itself, never diagonalised."""
    N, L = 64, 1024
    A, B, C, original = in_modes(measure, N)
    expected = kernel_by_powers(*bilinear(*original[:2], delta), original[2], L)
    largest = expected.abs().max()
    for real in (False, True):
        kernel = kernel_dplr(A, B, C, delta, L, real)
        assert kernel.is_complex() is not real
        assert (kernel - expected).abs().max() <= 1e-9 * largest
    A, B, C, _ = in_modes(measure, N, torch.complex64)
    kernel = kernel_dplr(A, B, C, delta, L, real=True)
    assert kernel.dtype == torch.float32
    assert (kernel - expected).norm() <= 6e-5 * expected.norm()


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bound"), [(torch.complex128, 1e-9), (torch.complex64, 6e-5)])
@pytest.mark.parametrize("measure", ["legs", "legt"])
def test_s4_kernels_on_a_gpu(measure, dtype, bound):
    (Lambda, P, _), B, C, original = in_modes(measure, 64, dtype)
    expected = kernel_by_powers(*bilinear(*original[:2], 0.01), original[2], 1024)
    Lambda, P, B, C = (part.cuda() for part in (Lambda, P, B, C))
    A = DPLR(Lambda, P, P)
    Ctilde = truncated_C(A, C, 0.01, 1024)
    for kernel in (
        kernel_dplr(A, B, C, 0.01, 1024, real=True),
        kernel_dplr(A, B, C, 0.01, 1024).real,
        kernel_from_truncated(A, B, Ctilde, 0.01, 1024, real=True),
    ):
        assert (kernel.cpu() - expected).norm() <= bound * expected.norm()
    half = slice(0, 32)
    Abar, Bbar = discretise(Diagonal(Lambda[half].to(torch.complex128)), B[half].to(torch.complex128), 0.01)
    exact = 2 * kernel_by_powers(Diagonal(Abar.Lambda.cpu()), Bbar.cpu(), C[:, half].cpu(), 1024).real
    Abar, Bbar = Diagonal(Abar.Lambda.to(dtype)), Bbar.to(dtype)
    kernel = kernel_vandermonde(Abar, Bbar, C[:, half], 1024, real=True)
    assert (kernel.cpu() - exact).norm() <= 10 * bound * exact.norm()  # Abar is rounded


def test_s4_learns_what_is_truncated():
    A, B, C, _ = in_modes("legs", 16)
    Ctilde = truncated_C(A, C, 0.05, 100)
    kernel = kernel_from_truncated(A, B, Ctilde, 0.05, 100)
    torch.testing.assert_close(kernel, kernel_dplr(A, B, C, 0.05, 100), **TIGHT)
    assert (Ctilde - C).abs().max() > 1e-6


def test_s4_heads_may_differ_in_any_part():
    """Here in their eigenvalues alone, or in their steps alone."""
    A, B, C, _ = in_modes("legs", 4)
    rates, deltas = torch.tensor([1.0, 3.0], dtype=torch.float64), torch.tensor([0.1, 0.2]).double()
    by_modes = kernel_dplr(A._replace(Lambda=rates[:, None] * A.Lambda), B, C, 0.1, 7)
    by_steps = kernel_dplr(A, B, C, deltas, 7)
    for h in range(2):
        one = kernel_dplr(A._replace(Lambda=rates[h] * A.Lambda), B, C, 0.1, 7)
        torch.testing.assert_close(by_modes[h], one, **TIGHT)
        torch.testing.assert_close(by_steps[h], kernel_dplr(A, B, C, deltas[h], 7), **TIGHT)


def test_s4d_kernel_of_conjugate_halves():
    """Half of the modes, twice the real part: the kernel of the whole diagonal system."""
    system, half = nplr("fourier_diagonal", 16), conjugate_half(nplr("fourier_diagonal", 16))
    C = normal(1, 16)
    bars = discretise(*hippo("fourier_diagonal", 16), 0.02)
    expected = kernel_by_powers(*bars, C, 200)
    Abar, Bbar = discretise(Diagonal(half.A.Lambda), half.B, 0.02)
    kernel = 2 * kernel_vandermonde(Abar, Bbar, C.to(half.V.dtype) @ half.V, 200).real
    torch.testing.assert_close(kernel, expected, **TIGHT)
    kernel = kernel_vandermonde(Abar, Bbar, C.to(half.V.dtype) @ half.V, 200, real=True)
    assert kernel.dtype == torch.float64
    torch.testing.assert_close(kernel, expected, **TIGHT)
    assert system.A.P.shape == (16, 0)


def test_vandermonde_kernel_of_real_negative_and_vanishing_modes():
    """A mode of 0, such as 1 + delta lambda may be, ends after one step; the gradients of both agree."""
    Lambda = torch.tensor([0.9, -0.5, 0.0, 0.3], dtype=torch.float64).requires_grad_()
    B, C = normal(4, 2), normal(3, 4, seed=1)
    for L in (2, 9):
        kernel, expected = (f(Diagonal(Lambda), B, C, L) for f in (kernel_vandermonde, kernel_by_powers))
        assert kernel.dtype == torch.float64
        torch.testing.assert_close(kernel, expected, **TIGHT)
        weights = normal(*kernel.shape, seed=2)
        gradients = [torch.autograd.grad((k * weights).sum(), Lambda)[0] for k in (kernel, expected)]
        torch.testing.assert_close(*gradients, **TIGHT)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_vandermonde_kernel_is_naive_powers(dtype):
    """N = 64, L = 1,024; float32 too, of an Abar that float32 can hold."""
    half = conjugate_half(nplr("legs", 64))
    Abar, Bbar = discretise(Diagonal(half.A.Lambda), half.B, 0.01)
    C = normal(1, 32, dtype=torch.complex128)
    rounded = [part.to(dtype) for part in (Abar.Lambda, Bbar, C)]
    exact = [part.to(torch.complex128) for part in rounded]
    expected = 2 * kernel_by_powers(Diagonal(exact[0]), *exact[1:], 1024).real
    kernel = kernel_vandermonde(Diagonal(rounded[0]), *rounded[1:], 1024, real=True)
    assert (kernel - expected).norm() <= (1e-9 if dtype == torch.complex128 else 6e-5) * expected.norm()


@pytest.mark.parametrize("form", FORMS)
def test_kernel_of_twice_the_step(form):
    """Zero-order hold: K(2 delta)[k] = K(delta)[2k] + K(delta)[2k + 1]."""
    system = make(form, D=False)

    def kernel(delta, L):
        return kernel_by_powers(*discretise(system.A, system.B, delta), system.C, L)

    fine = kernel(0.05, 80)
    torch.testing.assert_close(kernel(0.1, 40), fine[0::2] + fine[1::2], **TIGHT)


def test_kernels_have_gradients():
    A, B, C, _ = in_modes("legs", 4)
    Lambda = A.Lambda.clone().requires_grad_()
    P, Q, B, C = (part.clone().requires_grad_() for part in (A.P, A.Q, B, C))
    delta = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def s4(Lambda, P, Q, B, C, delta):
        return torch.view_as_real(kernel_dplr(DPLR(Lambda, P, Q), B, C, delta, 9))

    def s4d(Lambda, B, C, delta):
        return torch.view_as_real(kernel_vandermonde(*discretise(Diagonal(Lambda), B, delta), C, 9))

    def lssl(A, B, C, delta):
        return kernel_by_doubling(*discretise(A, B, delta), C, 5)

    assert torch.autograd.gradcheck(s4, (Lambda, P, Q, B, C, delta))
    assert torch.autograd.gradcheck(s4d, (Lambda, B, C, delta))
    real = [normal(1, 3).requires_grad_() if i else hippo("legt", 3)[0].requires_grad_() for i in range(2)]
    assert torch.autograd.gradcheck(lssl, (real[0], normal(3, 1).requires_grad_(), real[1], delta))


def test_s5_is_a_tied_bank_of_s4d():
    """A MIMO system of M inputs and P outputs: M SISO systems on the same A for each output, added up."""
    system = sampled(make("diagonal", M=2, P=3, D=False), 0.1)
    u = normal(25, 2)
    expected = torch.zeros(25, 3, dtype=torch.complex128)
    for m in range(2):
        for p in range(3):
            one = System(system.A, system.B[:, m : m + 1], system.C[p : p + 1])
            expected[:, p] += recurrent(one, u[:, m : m + 1])[0][:, 0]
    torch.testing.assert_close(recurrent(system, u)[0], expected, **TIGHT)


def test_one_step():
    system = sampled(make("dplr"), 0.1)
    u, x = normal(3, 2), normal(3, 6, dtype=torch.complex128)
    y, after = step(system, u, x)
    A = dense(system.A)
    expected = (A @ x[..., None] + system.B @ u[..., None].to(A.dtype))[..., 0]
    torch.testing.assert_close(after, expected, **TIGHT)
    torch.testing.assert_close(y, expected @ system.C.T + u.to(A.dtype) @ system.D.T, **TIGHT)


system = sampled(make("dense"), 0.1)
grows = Diagonal(torch.tensor([0.5]))
one = torch.ones(1, 1)
halves = (DPLR(-torch.ones(1), one, one), one, one)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: recurrent(system, torch.zeros(0, 2)), "L=0: expected 1 or more"),
        (lambda: convolutional(system, torch.zeros(0, 2)), "L=0: expected 1 or more"),
        (lambda: convolutional(system, torch.zeros(3, 2), width=0), "L=0: expected 1 or more"),
        (lambda: chunked(system, torch.zeros(0, 2), 4), "L=0: expected 1 or more"),
        (lambda: chunked(system, torch.zeros(3, 2), 0), "chunk=0: expected 1 or more"),
        (lambda: convolve(torch.zeros(3, 1, 1), torch.zeros(0, 1)), "L=0: expected 1 or more"),
        (lambda: convolve(torch.zeros(0, 1, 1), torch.zeros(3, 1)), "W=0: expected 1 or more"),
        (lambda: kernel_by_powers(*system[:3], 0), "L=0: expected 1 or more"),
        (lambda: truncated_C(halves[0], one, 0.1, 0), "L=0: expected 1 or more"),
        (lambda: kernel_by_doubling(*system[:3], 0), "L=0: expected 1 or more"),
        (lambda: kernel_vandermonde(Diagonal(torch.ones(1)), one, one, 0), "L=0: expected 1 or more"),
        (lambda: kernel_dplr(DPLR(torch.ones(1), one, one), one, one, 0.1, 0), "L=0: expected 1 or more"),
        (lambda: kernel_dplr(DPLR(-torch.ones(1), one, one), one, one, -1.0, 4), "delta=-1: expected a pos"),
        (
            lambda: kernel_dplr(DPLR(3 * torch.ones(1), one, one), one, one, 0.1, 4),
            "A: an eigenvalue has the",
        ),
        (lambda: kernel_dplr(*halves, 0.1, 4, real=True), "N=1: the states come in pairs, expected an even"),
        (lambda: kernel_from_truncated(*halves, 0.1, 0), "L=0: expected 1 or more"),
        (lambda: impulse_response(System(grows, one, one), torch.zeros(1)), "A: an eigenvalue has the real"),
        (lambda: multi_head(make("diagonal", (3,)), torch.zeros(1, 4, 5)), "u: 5 channels, expected 3 heads"),
    ],
)
def test_bad_input_is_refused(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).startswith(sentence)
