"""The Kalman filter and smoother against the joint Gaussian of all states and observations."""

import numpy as np
import pytest
import scipy.stats
import torch

from ssm_seq.ssm import Diagonal, System, kalman_filter, recurrent, rts_smoother

N, M, P, L = 3, 2, 2, 6
RNG = np.random.default_rng(0)


def covariance(size, scale=1.0):
    root = RNG.normal(size=(size, size))
    return torch.tensor(scale * (root @ root.T + 0.1 * np.eye(size)))


SYSTEM = System(*(torch.tensor(RNG.normal(size=shape)) * 0.6 for shape in ((N, N), (N, M), (P, N), (P, M))))
Q, R, START = covariance(N, 0.3), covariance(P, 0.5), covariance(N)
MEAN = torch.tensor(RNG.normal(size=N))
U = torch.tensor(RNG.normal(size=(L, M)))


def joint():
    """Mean and covariance of (x_0 ... x_(L-1), y_0 ... y_(L-1)), written out."""
    A, B, C, D = (part.numpy() for part in SYSTEM)
    # x = sum over j of A^(k-j) (B u_j + w_j) + A^(k+1) x_(-1); noise = (x_(-1) - m, w_0, ..., w_(L-1)).
    from_noise, mean, offset = np.zeros((L * N, (L + 1) * N)), np.zeros(L * N), MEAN.numpy()
    for k in range(L):
        offset = A @ offset + B @ U[k].numpy()
        mean[k * N : (k + 1) * N] = offset
        for j in range(-1, k + 1):
            block = np.linalg.matrix_power(A, k - j)
            from_noise[k * N : (k + 1) * N, (j + 1) * N : (j + 2) * N] = block
    noise = np.kron(np.eye(L + 1), Q.numpy())
    noise[:N, :N] = START.numpy()
    states = from_noise @ noise @ from_noise.T
    observe = np.kron(np.eye(L), C)
    both = np.block([[states, states @ observe.T], [observe @ states, observe @ states @ observe.T]])
    both[L * N :, L * N :] += np.kron(np.eye(L), R.numpy())
    direct = (U.numpy() @ D.T).reshape(-1)
    return np.concatenate([mean, observe @ mean + direct]), both


def condition(y, steps):
    """p(x_k | y_0 ... y_(steps-1)) for every k, by conditioning the joint Gaussian."""
    mean, spread = joint()
    seen = slice(L * N, L * N + steps * P)
    gain = spread[: L * N, seen] @ np.linalg.inv(spread[seen, seen])
    conditional = mean[: L * N] + gain @ (y.numpy().reshape(-1)[: steps * P] - mean[seen])
    return conditional.reshape(L, N), spread[: L * N, : L * N] - gain @ spread[seen, : L * N]


@pytest.fixture
def observed():
    return torch.tensor(RNG.normal(size=(L, P)))


def test_filter_and_smoother_condition_the_joint_gaussian(observed):
    filtered = kalman_filter(SYSTEM, U, observed, Q, R, MEAN, START)
    smoothed = rts_smoother(SYSTEM, U, filtered, Q)
    for beliefs, steps_at in ((filtered, lambda k: k + 1), (smoothed, lambda k: L)):
        for k in range(L):
            mean, spread = condition(observed, steps_at(k))
            block = slice(k * N, (k + 1) * N)
            np.testing.assert_allclose(beliefs.mean[k], mean[k], rtol=1e-8, atol=1e-9)
            np.testing.assert_allclose(beliefs.covariance[k], spread[block, block], rtol=1e-8, atol=1e-9)
    mean, spread = joint()
    expected = scipy.stats.multivariate_normal(mean[L * N :], spread[L * N :, L * N :]).logpdf(
        observed.reshape(-1)
    )
    assert abs(filtered.log_likelihood.item() - expected) < 1e-8


def test_many_sequences_are_one_each():
    u, y = torch.tensor(RNG.normal(size=(4, L, M))), torch.tensor(RNG.normal(size=(4, L, P)))
    filtered = kalman_filter(SYSTEM, u, y, Q, R, MEAN, START)
    smoothed = rts_smoother(SYSTEM, u, filtered, Q)
    for i in range(4):
        one = kalman_filter(SYSTEM, u[i], y[i], Q, R, MEAN, START)
        for ours, expected in ((filtered, one), (smoothed, rts_smoother(SYSTEM, u[i], one, Q))):
            for part, wanted in zip(ours, expected, strict=True):
                torch.testing.assert_close(part[i], wanted, rtol=1e-10, atol=1e-11)


def test_without_noise_it_is_the_recurrence(observed):
    """Nothing to doubt, so nothing to learn from y."""
    nothing = torch.zeros(N, N).double()
    system = SYSTEM._replace(C=torch.eye(N).double(), D=None)
    beliefs = kalman_filter(system, U, torch.randn(L, N).double(), nothing, torch.eye(N).double())
    states, _ = recurrent(system, U)
    torch.testing.assert_close(beliefs.mean, states)
    torch.testing.assert_close(rts_smoother(system, U, beliefs, nothing).mean, states)
    assert beliefs.covariance.abs().max() == 0


def test_a_random_walk_settles_at_the_textbook_gain():
    """q = r = 1: the variance after an observation tends to 1 / golden ratio, and the filter to an EMA."""
    one = torch.ones(1, 1).double()
    walk = System(Diagonal(torch.ones(1).double()), one, one)
    beliefs = kalman_filter(walk, torch.zeros(60, 1).double(), torch.ones(60, 1).double(), one, one)
    assert abs(beliefs.covariance[-1].item() - (5**0.5 - 1) / 2) < 1e-12
    errors = 1 - beliefs.mean[:, 0]
    torch.testing.assert_close(errors[21] / errors[20], torch.tensor(1 - (5**0.5 - 1) / 2).double())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"u": U[:0], "y": torch.zeros(0, P)}, "L=0: expected 1 or more"),
        ({"u": U[:3]}, "y: 6 steps, expected as many as u has, 3"),
        ({"Q": -Q}, "Q: it has a negative eigenvalue"),
        ({"R": torch.tensor([[1.0, 0.5], [0.0, 1.0]]).double()}, "R: not symmetric"),
        ({"R": torch.zeros(P, P).double()}, "R: singular"),
        ({"system": SYSTEM._replace(A=SYSTEM.A + 0j)}, "A: complex"),
    ],
)
def test_bad_input_is_refused(values, sentence):
    with pytest.raises(ValueError) as caught:
        kalman_filter(**{"system": SYSTEM, "u": U, "y": torch.zeros(L, P).double(), "Q": Q, "R": R} | values)
    assert str(caught.value).startswith(sentence)


def test_a_smoother_needs_its_filter(observed):
    filtered = kalman_filter(SYSTEM, U, observed, Q, R)
    with pytest.raises(ValueError, match="u: 3 steps, expected the filter's 6"):
        rts_smoother(SYSTEM, U[:3], filtered, Q)
