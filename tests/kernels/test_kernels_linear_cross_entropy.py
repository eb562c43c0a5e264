import pytest
import torch
import torch.nn.functional as F
from graph_capture import replayed
from interpreter import run_interpreted
from kernel_cases import DEVICES, FORWARD, GRADIENT, ROUNDED_FORWARD, ROUNDED_GRADIENT, error

from ssm_seq.kernels import linear_cross_entropy
from ssm_seq.kernels.linear_cross_entropy import cpu, definition

SHAPES = [
    ((2, 63), 24, 15),
    ((1,), 1, 1),
    ((), 5, 4),
    ((3, 2, 50), 33, 7),
    ((700,), 16, 2500),
    ((4, 9), 8, 60000),
]


def loss_inputs(positions, width, vocab, device="cpu", dtype=torch.float32):
    """hidden, weight and targets, every fifth of them ignored."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

    targets = torch.randint(vocab, positions, generator=generator)
    targets.view(-1)[4::5] = -100
    return normal(*positions, width), normal(vocab, width), targets.to(device)


def with_gradients(function, hidden, weight, targets):
    """Losses and gradients of hidden and weight, for a random gradient of each loss."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (hidden, weight)]
    losses = function(*leaves, targets)
    generator = torch.Generator().manual_seed(1)
    sent = torch.randn(losses.shape, generator=generator).to(losses)
    dhidden, dweight = torch.autograd.grad(losses, leaves, sent)
    return losses.detach(), dhidden, dweight


def assert_close(found, expected, forward, gradient):
    errors = [error(a, b) for a, b in zip(found, expected, strict=True)]
    assert errors[0] <= forward and max(errors[1:]) <= gradient, errors


def in_double(hidden, weight, targets):
    return hidden.double(), weight.double(), targets


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_everything_agrees_with_the_definition(shape, device, poisoned):
    arguments = loss_inputs(*shape, device=device)
    found = with_gradients(linear_cross_entropy, *arguments)
    expected = with_gradients(definition.linear_cross_entropy, *in_double(*arguments))
    assert found[0].shape == arguments[2].shape and found[0].dtype == torch.float32
    assert_close(found, expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_inputs(dtype, device, poisoned):
    for shape in [((2, 70), 40, 15), ((300,), 24, 257)]:
        arguments = loss_inputs(*shape, device=device, dtype=dtype)
        found = with_gradients(linear_cross_entropy, *arguments)
        assert found[0].dtype == torch.float32 and found[1].dtype == found[2].dtype == dtype
        expected = with_gradients(definition.linear_cross_entropy, *in_double(*arguments))
        assert_close(found, expected, ROUNDED_FORWARD, ROUNDED_GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
def test_chunks_of_rows_are_the_whole(device, monkeypatch, poisoned):
    """Several chunks, the last one shorter, give what one gives."""
    path = cpu
    if device == "cuda":
        from ssm_seq.kernels.linear_cross_entropy import gpu as path
    for dtype in (torch.float32, torch.bfloat16):
        arguments = loss_inputs((2, 333), 24, 15, device, dtype)
        whole = with_gradients(linear_cross_entropy, *arguments)
        with monkeypatch.context() as patch:
            patch.setattr(path, "LOGITS", 16 * 128)
            patch.setattr(cpu, "MIN_ROWS", 1)
            chunks = with_gradients(linear_cross_entropy, *arguments)
        rounding = 2**-8 if dtype == torch.bfloat16 else 1e-6
        assert_close(chunks, whole, 1e-6, rounding)


@pytest.mark.parametrize("device", DEVICES)
def test_it_is_the_cross_entropy_of_pytorch(device):
    hidden, weight, targets = loss_inputs((40,), 12, 15, device=device)
    expected = F.cross_entropy(F.linear(hidden, weight), targets, reduction="none")
    assert error(linear_cross_entropy(hidden, weight, targets), expected) < 1e-6


@pytest.mark.parametrize("device", DEVICES)
def test_ignored_targets_give_and_get_nothing(device):
    hidden, weight, targets = loss_inputs((30,), 12, 15, device=device)
    losses, dhidden, dweight = with_gradients(linear_cross_entropy, hidden, weight, targets)
    known = targets >= 0
    assert not losses[~known].any() and not dhidden[~known].any()
    changed = torch.where(known[:, None], hidden, 7.0)
    assert torch.equal(losses, linear_cross_entropy(changed, weight, targets))
    assert torch.equal(dweight, with_gradients(linear_cross_entropy, changed, weight, targets)[2])
    assert not linear_cross_entropy(hidden, weight, torch.full_like(targets, -1)).any()


@pytest.mark.parametrize("device", DEVICES)
def test_huge_logits_do_not_overflow(device):
    hidden = torch.eye(4, device=device) * 1e4
    weight = torch.eye(4, device=device)
    losses, dhidden, _ = with_gradients(
        linear_cross_entropy, hidden, weight, torch.tensor([0, 0, 2, 1], device=device)
    )
    assert losses.tolist() == [0, 1e4, 0, 1e4]
    assert dhidden.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_casts_as_linear_does(device):
    hidden, weight, targets = loss_inputs((200,), 24, 15, device=device)
    with torch.autocast(device, torch.bfloat16):
        losses, dhidden, dweight = with_gradients(linear_cross_entropy, hidden, weight, targets)
    assert losses.dtype == dhidden.dtype == dweight.dtype == torch.float32
    rounded = [tensor.bfloat16().double() for tensor in (hidden, weight)]
    expected = with_gradients(definition.linear_cross_entropy, *rounded, targets)
    assert_close((losses, dhidden, dweight), expected, FORWARD, ROUNDED_GRADIENT)
    assert error(losses, linear_cross_entropy(hidden, weight, targets)) > 1e-4  # so the products were rounded


@pytest.mark.parametrize("device", DEVICES)
def test_strided_inputs_and_gradients(device, poisoned):
    wide, weight, targets = loss_inputs((6, 20), 48, 15, device=device)
    cases = [
        (wide[..., :24], weight[:, 24:], targets),
        (wide[..., ::2], weight[:, ::2], targets),
        (wide.transpose(0, 1)[..., 24:], weight[:, :24], targets.t()),
        (wide[::2, ::3, :24], weight[:, :24].t().contiguous().t(), targets[::2, ::3]),
    ]
    for hidden, matrix, chosen in cases:
        leaves = [hidden.detach().requires_grad_(), matrix.detach().requires_grad_()]
        doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
        sent = torch.arange(2.0 * chosen.numel(), device=device)[::2].view(chosen.shape)
        losses = linear_cross_entropy(*leaves, chosen)
        expected = definition.linear_cross_entropy(*doubles, chosen)
        found = (losses.detach(), *torch.autograd.grad(losses, leaves, sent))
        true = (expected.detach(), *torch.autograd.grad(expected, doubles, sent.double()))
        assert_close(found, true, FORWARD, GRADIENT)
    (of_sum,) = torch.autograd.grad(linear_cross_entropy(*leaves, chosen).sum(), leaves[:1])
    (true,) = torch.autograd.grad(definition.linear_cross_entropy(*doubles, chosen).sum(), doubles[:1])
    assert error(of_sum, true) < GRADIENT  # the gradient of a sum is one number at distance zero


def test_gradcheck():
    hidden, weight, targets = loss_inputs((2, 4), 3, 5, dtype=torch.float64)
    tensors = hidden.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda *leaves: linear_cross_entropy(*leaves, targets), tensors)


@pytest.mark.parametrize("device", DEVICES)
def test_operator_contract(device):
    for dtype in (torch.float32, torch.bfloat16):
        hidden, weight, targets = loss_inputs((6,), 8, 15, device=device, dtype=dtype)
        arguments = hidden.requires_grad_(), weight.float().requires_grad_(), targets
        torch.library.opcheck(torch.ops.ssm_seq.linear_cross_entropy.default, arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_one_compiled_graph(device):
    torch.compiler.reset()
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (9, 14):
        arguments = loss_inputs((2, length), 8, 15, device=device)
        expected = with_gradients(definition.linear_cross_entropy, *in_double(*arguments))
        assert_close(with_gradients(compiled, *arguments), expected, FORWARD, GRADIENT)
        with torch.autocast(device, torch.bfloat16):
            assert error(compiled(*arguments), linear_cross_entropy(*arguments)) < 1e-6


@pytest.mark.gpu
def test_captured_in_a_graph():
    hidden, weight, targets = loss_inputs((600,), 64, 15, "cuda", torch.bfloat16)
    leaves = hidden.requires_grad_(), weight.requires_grad_()

    def run():
        losses = linear_cross_entropy(*leaves, targets)
        return losses, *torch.autograd.grad(losses, leaves, torch.ones_like(losses))

    assert all(torch.equal(*pair) for pair in zip(*replayed(run), strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "width", "vocab"), [(2**20, 256, 15), (2**14, 256, 50_000)], ids=str)
def test_memory_stays_far_below_all_logits(rows, width, vocab):
    hidden, weight = (
        torch.randn(*shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for shape in ((rows, width), (vocab, width))
    )
    targets = torch.randint(vocab, (rows,), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    linear_cross_entropy(hidden, weight, targets).mean().backward()
    held = hidden.numel() * 2 + weight.numel() * 4 * 3  # the gradients of both, and their float32 sums
    assert torch.cuda.max_memory_allocated() - before < held + 640 * 2**20


@pytest.mark.gpu
def test_two_runs_agree_bit_for_bit():
    arguments = loss_inputs((50_000,), 96, 15, "cuda", torch.bfloat16)
    first, again = (with_gradients(linear_cross_entropy, *arguments) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


HIDDEN, WEIGHT, TARGETS = torch.zeros(2, 3, 6), torch.zeros(4, 6), torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 0), WEIGHT, TARGETS), r"hidden has shape \(2, 0\), expected \(..., d\)"),
        ((HIDDEN.long(), WEIGHT, TARGETS), r"hidden has shape \(2, 3, 6\) and dtype torch.int64"),
        (
            (HIDDEN, torch.zeros(4, 5), TARGETS),
            r"weight has shape \(4, 5\), expected \(vocab, d\) = \(4, 6\)",
        ),
        ((HIDDEN, WEIGHT[0], TARGETS), r"weight has shape \(6,\), expected \(vocab, d\)"),
        ((HIDDEN, WEIGHT, TARGETS[0]), r"targets has shape \(3,\), expected \(...\) = \(2, 3\)"),
        ((HIDDEN, WEIGHT, TARGETS.int()), r"targets .* dtype torch.int32, expected dtype int64"),
        ((HIDDEN, WEIGHT, TARGETS + 4), "targets has the value 4, expected values below vocab = 4"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(*arguments)


_INTERPRETED = """
import torch
from test_kernels_linear_cross_entropy import assert_close, in_double, loss_inputs, with_gradients
from ssm_seq.kernels.linear_cross_entropy import definition, gpu, op

op._device_path = lambda tensor: gpu
gpu.TILE = 64
for logits in (64 * 16, 2**20):  # chunks of 64 rows, and all rows
    gpu.LOGITS = logits
    for shape in [((2, 75), 24, 15), ((1,), 1, 1), ((5,), 8, 100), ((3,), 4, 64)]:
        arguments = loss_inputs(*shape)
        expected = with_gradients(definition.linear_cross_entropy, *in_double(*arguments))
        assert_close(with_gradients(op.linear_cross_entropy, *arguments), expected, 2e-6, 1e-5)
hidden, weight, targets = loss_inputs((9,), 8, 15)
losses = op.linear_cross_entropy(hidden, weight, targets + 1)
assert losses.isnan().equal(targets == 14)
# 16-bit gradients lie in memory of their own.
gpu._product = lambda left, right: left.float() @ right.float()
arguments = loss_inputs((70,), 8, 15, dtype=torch.bfloat16)
expected = with_gradients(definition.linear_cross_entropy, *in_double(*arguments))
assert_close(with_gradients(op.linear_cross_entropy, *arguments), expected, 5e-3, 1e-2)
"""


def test_gpu_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    run_interpreted(_INTERPRETED)
