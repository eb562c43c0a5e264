"""Decoders: the walk of the definition, and rows that know nothing of each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from compiled import compiled_for_h100
from decode_cases import inputs, stack_of, walk
from kernel_cases import DEVICES, error

from ssm_seq.kernels.decode import Rule, decoder, gpu

KINDS = pytest.mark.parametrize("kind", ["mamba", "s4d"])
RULES = {
    "plain": Rule(),
    "cut": Rule(temperature=0.9, top_k=7, top_p=0.9, min_p=0.01),
    "greedy": Rule(temperature=0),
}
STEPS = 12


def run(stack, rows, rule=RULES["plain"], dtype=None, steps=STEPS):
    """ids, state and logits of the fused decoder."""
    state, logits, draws = inputs(stack, rows, steps)
    ids = decoder(stack, dtype).run(state, logits, draws, rule)
    return ids, (*state, logits)


@KINDS
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rule", list(RULES))
def test_many_steps_are_the_definition(kind, rule, device, poisoned):
    stack = stack_of(kind, 2, 24, 8, 20, device)
    state, logits, draws = inputs(stack, 3, STEPS)
    expected, *found = walk(stack, state, logits, draws, RULES[rule])
    expected_state, expected_logits = found
    ids, results = run(stack, 3, RULES[rule])
    assert torch.equal(ids, expected)
    for result, wanted in zip(results, (*expected_state, expected_logits), strict=True):
        assert error(result, wanted) < 1e-5


@KINDS
@pytest.mark.parametrize("shape", [(1, 6, 2, 3, 1), (1, 70, 4, 300, 5), (1, 6, 2, 300, 4)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_odd_sizes(kind, shape, device, poisoned):
    layers, d_model, d_state, vocab, width = shape
    stack = stack_of(kind, layers, d_model, d_state, vocab, device, width)
    state, logits, draws = inputs(stack, 2, STEPS)
    expected, _, expected_logits = walk(stack, state, logits, draws, RULES["cut"])
    ids, results = run(stack, 2, RULES["cut"])
    assert torch.equal(ids, expected)
    assert error(results[-1], expected_logits) < 1e-5


@KINDS
@pytest.mark.parametrize("device", DEVICES)
def test_of_equally_likely_ids_the_first_are_kept(kind, device):
    stack = stack_of(kind, 1, 24, 4, 40, device)
    stack = replace(stack, head=torch.zeros_like(stack.head))
    state, logits, draws = inputs(stack, 2, STEPS)
    expected, _, _ = walk(stack, state, logits, draws, RULES["cut"])
    ids, _ = run(stack, 2, RULES["cut"])
    assert torch.equal(ids, expected)
    assert ids[:, 1:].max() == 6  # of the seven that top_k leaves


@KINDS
def test_double_precision_on_a_cpu(kind):
    stack = stack_of(kind, 2, 24, 8, 20).to(torch.float64)
    state, logits, draws = inputs(stack, 2, STEPS)
    expected, _, expected_logits = walk(stack, state, logits, draws, RULES["plain"])
    ids, results = run(stack, 2)
    assert torch.equal(ids, expected)
    assert error(results[-1], expected_logits) < 1e-12


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", DEVICES)
def test_a_row_does_not_depend_on_its_batch(kind, dtype, device):
    """37 rows fill four tiles of a GPU and begin a fifth."""
    stack = stack_of(kind, 2, 64, 16, 40, device)
    dtype = dtype if device == "cuda" else None
    many, few = run(stack, 37, dtype=dtype), run(stack, 5, dtype=dtype)
    one = run(stack, 1, dtype=dtype)
    for rows, (ids, results) in ((5, few), (1, one)):
        assert torch.equal(ids, many[0][:rows])
        assert torch.equal(results[-1], many[1][-1][:rows])
        for part, wanted in zip(results[:-1], many[1], strict=False):
            assert torch.equal(part, wanted[:, :rows])


@KINDS
@pytest.mark.parametrize("device", DEVICES)
def test_steps_in_two_calls_are_those_of_one(kind, device):
    stack = stack_of(kind, 2, 24, 8, 20, device)
    ids, results = run(stack, 2)
    state, logits, draws = inputs(stack, 2, STEPS)
    halves = [decoder(stack).run(state, logits, part, RULES["plain"]) for part in draws.split(5, dim=1)]
    assert torch.equal(torch.cat(halves, 1), ids)
    assert all(torch.equal(*pair) for pair in zip((*state, logits), results, strict=True))


@KINDS
@pytest.mark.gpu
@pytest.mark.parametrize("d_model", [256, 512])
def test_rounded_matrices_on_a_gpu(kind, d_model):
    """The ids are fixed by the definition's: a step from the same state, logits within bfloat16's error."""
    stack = stack_of(kind, 4, d_model, 16, 256, "cuda")
    state, logits, draws = inputs(stack, 20, 1)
    expected, expected_state, expected_logits = walk(stack, state, logits, draws, RULES["plain"])
    assert torch.equal(decoder(stack, torch.bfloat16).run(state, logits, draws, RULES["plain"]), expected)
    for result, wanted in zip((*state, logits), (*expected_state, expected_logits), strict=True):
        assert error(result, wanted) < 2e-2


@pytest.mark.gpu
def test_more_steps_than_a_word_counts():
    """A bfloat16 and its epoch share 32 bits."""
    stack = stack_of("mamba", 1, 24, 8, 20, "cuda")
    ids, results = run(stack, 1, dtype=torch.bfloat16, steps=70_000)
    state, logits, draws = inputs(stack, 1, 70_000)
    parts = draws.split(40_000, dim=1)
    parts = [decoder(stack, torch.bfloat16).run(state, logits, part.contiguous(), Rule()) for part in parts]
    assert torch.equal(torch.cat(parts, 1), ids)
    assert all(torch.equal(*pair) for pair in zip((*state, logits), results, strict=True))


@KINDS
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("d_model", [64, 1024])
def test_tiles_of_every_size_have_the_same_bits(kind, dtype, d_model, monkeypatch):
    """So has every number of programs, on which the tile depends too."""
    stack = stack_of(kind, 2, d_model, 16, 256, "cuda")
    state, logits, draws = inputs(stack, 33, STEPS)
    found = []
    cases = [(None, 8), (d_model // 8, 8), (d_model // 32, 8)]
    if kind == "mamba":
        cases += [(None, 16), (None, 32), (d_model // 32, 16)]
    for programs, tile in cases:
        run_by = gpu.GpuDecoder(stack, dtype, programs)
        monkeypatch.setattr(run_by, "_divided", lambda *_, plan=run_by._plans[-1], tile=tile: (plan, tile))
        own_state, own_logits = [part.clone() for part in state], logits.clone()
        ids = run_by.run(tuple(own_state), own_logits, draws, RULES["plain"])
        found.append((ids, *own_state, own_logits))
    for others in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(others, found[0], strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "tile"), [("mamba", 8), ("mamba", 16), ("s4d", 8)])
def test_a_number_with_the_bits_of_an_absent_word(kind, tile, monkeypatch):
    """A program that waited for it would wait for ever."""
    stack = stack_of(kind, 1, 24, 8, 20, "cuda")
    stack.embedding[:] = torch.tensor(-1, dtype=torch.int32).view(torch.float32)
    state, logits, draws = inputs(stack, 3, STEPS)
    logits[0] = stack.embedding[0, 0]
    run_by = gpu.GpuDecoder(stack, torch.float32)
    monkeypatch.setattr(run_by, "_divided", lambda *_: (run_by._plans[-1], tile))
    ids = run_by.run(state, logits, draws, RULES["plain"])
    assert ((ids >= 0) & (ids < 20)).all()
    assert logits.isnan().all()


@pytest.mark.gpu
def test_more_tiles_than_fit_on_a_gpu():
    stack = stack_of("mamba", 1, 256, 16, 40, "cuda")
    many, few = run(stack, 700, steps=3), run(stack, 3, steps=3)
    assert torch.equal(many[0][:3], few[0])
    assert torch.equal(many[1][-1][:3], few[1][-1])
    expected = walk(stack, *inputs(stack, 700, 3), RULES["plain"])
    assert torch.equal(many[0], expected[0])


def test_larger_tiles_only_where_all_programs_hear_of_each_other(monkeypatch):
    """Of a layer's 24 outputs two programs have 16 each; a third one has none and is sent nothing of y."""
    monkeypatch.setattr(gpu, "processors", lambda _: 132)
    stack = stack_of("mamba", 2, 24, 8, 20)
    for programs, channels, tile in ((2, 32, 16), (3, 16, 8)):
        plan, rows = gpu.GpuDecoder(stack, torch.bfloat16, programs)._divided(700, torch.device("cpu"))
        assert (plan.constants["CHANNELS"], rows) == (channels, tile)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "rows", "tile", "channels"),
    [("mamba", 9, 8, 16), ("mamba", 700, 16, 32), ("s4d", 9, 8, 16), ("s4d", 700, 8, 16)],
)
def test_kernels_compile_where_there_is_no_gpu(kind, dtype, rows, tile, channels, monkeypatch):
    """For an H100, with the arguments and constants of a run; the interpreter knows no Gluon."""
    launches = []
    monkeypatch.setattr(gpu, "launch", lambda *given, **constants: launches.append((*given, constants)))
    monkeypatch.setattr(gpu, "processors", lambda _: 132)
    monkeypatch.setattr(gpu.GpuDecoder, "_resident", lambda *_: 132)
    stack = stack_of(kind, 2, 24, 8, 20)
    gpu.GpuDecoder(stack, dtype).run(*inputs(stack, rows, 3), RULES["cut"])
    ((kernel, grid, arguments, constants),) = launches
    programs = -(-48 // channels) if kind == "mamba" else 2
    assert (constants["ROWS"], grid) == (tile, (programs, min(132 // programs, -(-rows // tile))))
    compiled = compiled_for_h100(kernel, arguments, constants)
    assert compiled.asm["ptx"].count("mma.sync") >= 4  # products
    assert "fma.rn.f32" not in compiled.asm["ptx"]  # but what is written, whatever the tile


@KINDS
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state, logits, draws: (state, logits, draws[0]), "draws has shape .*rows, steps"),
        (lambda state, logits, draws: (state, logits, draws.float()), "draws has .*float64"),
        (lambda state, logits, draws: (state, logits[:1], draws), "logits has shape .*rows, vocab"),
        (lambda state, logits, draws: (state, logits.double(), draws), "logits has .*float32"),
        (lambda state, logits, draws: (state, logits.t().contiguous().t(), draws), "logits has strides"),
        (lambda state, logits, draws: (state[1:], logits, draws), "state has . tensors"),
        (
            lambda state, logits, draws: ((*state[:-1], state[-1][:, :1]), logits, draws),
            r"state\[.\] has shape",
        ),
    ],
)
def test_bad_arguments(kind, change, sentence):
    stack = stack_of(kind, 1, 6, 2, 3)
    with pytest.raises(ValueError, match=sentence):
        decoder(stack).run(*change(*inputs(stack, 2, 4)), RULES["plain"])


@KINDS
def test_what_a_gpu_holds_in_registers(kind):
    states = 64 if kind == "mamba" else 128
    assert gpu.takes(stack_of(kind, 1, 6, states, 1024))
    assert not gpu.takes(stack_of(kind, 1, 6, states + 2, 3))
    assert not gpu.takes(stack_of(kind, 1, 6, 2, 1025))


def test_dtypes_that_nothing_is_made_for():
    with pytest.raises(ValueError, match="bfloat16"):
        decoder(stack_of("mamba", 1, 6, 2, 3), torch.bfloat16)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"temperature": -0.1}, "temperature=-0.1: expected 0 or more"),
        ({"temperature": float("nan")}, "temperature=nan: expected 0 or more"),
        ({"top_k": -1}, "top_k=-1: expected 0 or more"),
        ({"top_p": 0.0}, "top_p=0.0: expected more than 0 and at most 1"),
        ({"top_p": 1.1}, "top_p=1.1: expected more than 0 and at most 1"),
        ({"min_p": 1.5}, "min_p=1.5: expected 0 to 1"),
    ],
)
def test_rules_out_of_range_are_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        Rule(**values)


PROBABILITIES = torch.tensor([0.15, 0.5, 0.0, 0.25, 0.1], dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (Rule(), [0.15, 0.5, 0, 0.25, 0.1]),
        (Rule(temperature=0.5), [0.0225, 0.25, 0, 0.0625, 0.01]),
        (Rule(temperature=0), [0, 1, 0, 0, 0]),
        (Rule(top_k=2), [0, 0.5, 0, 0.25, 0]),
        (Rule(top_k=9), [0.15, 0.5, 0, 0.25, 0.1]),
        (Rule(top_p=0.7), [0, 0.5, 0, 0.25, 0]),
        (Rule(top_p=0.76), [0.15, 0.5, 0, 0.25, 0]),
        (Rule(top_p=1e-9), [0, 1, 0, 0, 0]),
        (Rule(min_p=0.4), [0, 0.5, 0, 0.25, 0]),
        (Rule(top_k=3, top_p=0.8), [0, 0.5, 0, 0.25, 0]),
        (Rule(top_p=0.95, min_p=0.25), [0.15, 0.5, 0, 0.25, 0]),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(rule, kept):
    """Of 1,000 evenly spaced draws each id has its share."""
    draws = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    ids = rule.choose(PROBABILITIES.log().expand(1000, -1), draws)
    kept = np.array(kept)
    np.testing.assert_allclose(np.bincount(ids, minlength=5) / 1000, kept / kept.sum(), atol=0.0011)
    assert (ids.diff() >= 0).all()  # the order of the ids, whatever is left out


def test_of_equals_the_lower_id_comes_first():
    logits = torch.tensor([[0.0, 1.0, 1.0, 1.0]])
    for rule in (Rule(temperature=0), Rule(top_k=1), Rule(top_p=1e-9)):
        assert int(rule.choose(logits, torch.tensor([0.999], dtype=torch.float64))) == 1


def test_the_highest_draw_stays_among_the_kept():
    draw = torch.tensor([np.nextafter(1.0, 0.0)], dtype=torch.float64)
    for seed in range(50):
        logits = torch.randn(1, 256, generator=torch.Generator().manual_seed(seed))
        logits[0, 200:] = -torch.inf
        assert 0 <= int(Rule().choose(logits, draw)) < 200
        top = set(logits[0].topk(9).indices.tolist())
        assert int(Rule(top_k=9).choose(logits, draw)) in top
