"""Both models with every layer: whole = any chunks = step by step, in outputs and final state."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_seq.config import ModelConfig
from ssm_seq.errors import InputError
from ssm_seq.layers import map_state
from ssm_seq.models import Classifier, LanguageModel

TOLERANCE = {torch.float64: {"rtol": 1e-9, "atol": 1e-10}, torch.float32: {"rtol": 1e-3, "atol": 1e-4}}
LAYERS = ["mamba", "s4", "s4d", "s5", "dss", "lssl", "ema", "h3", "gated s5"]
every_layer = pytest.mark.parametrize("layer", LAYERS)
every_model = pytest.mark.parametrize("kind", ["language_model", "classifier"])


def make(kind, layer, dtype=torch.float64, seed=0, **values):
    torch.manual_seed(seed)
    layer, gated = layer.removeprefix("gated "), layer.startswith("gated ")
    sizes = {"layer": layer, "gated": gated, "d_model": 6, "n_layers": 2, "d_state": 4}
    config = ModelConfig(**sizes | values)
    if kind == "classifier":
        return Classifier(config, 15, ["one", "two", "three"], "dna").to(dtype)
    return LanguageModel(config, 15, "dna").to(dtype)


def random_ids(batch, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(15, (batch, length), generator=generator, dtype=torch.uint8)


def in_chunks(model, ids, cuts):
    state, outputs = None, []
    for part in torch.tensor_split(ids, sorted(cuts), dim=1):
        logits, state = model(part, state)
        outputs.append(logits)
    return outputs, state


@every_layer
@every_model
@settings(deadline=None, max_examples=4)
@given(
    dtype=st.sampled_from([torch.float64, torch.float32]),
    batch=st.integers(1, 3),
    length=st.integers(1, 40),
    cuts=st.sets(st.integers(1, 39)),
    seed=st.integers(0, 99),
)
def test_whole_is_chunks_is_steps(kind, layer, dtype, batch, length, cuts, seed):
    model, ids = make(kind, layer, dtype, seed), random_ids(batch, length, seed)
    cuts = {cut for cut in cuts if cut < length}
    with torch.no_grad():
        whole, final = model(ids)
        chunks, final_chunks = in_chunks(model, ids, cuts)
        state, steps = model.initial_state(batch), []
        for t in range(length):
            logits, state = model.step(ids[:, t], state)
            steps.append(logits)
    assert whole.dtype == dtype
    if kind == "classifier":  # logits for everything seen so far
        chunks, steps, at_ends = chunks[-1], steps[-1], [steps[cut - 1] for cut in sorted(cuts)]
        earlier, _ = in_chunks(model, ids, cuts)
        for chunk_end, step_end in zip(earlier[:-1], at_ends, strict=True):
            torch.testing.assert_close(chunk_end, step_end, **TOLERANCE[dtype])
    else:
        chunks, steps = torch.cat(chunks, dim=1), torch.stack(steps, dim=1)
    torch.testing.assert_close(chunks, whole, **TOLERANCE[dtype])
    torch.testing.assert_close(steps, whole, **TOLERANCE[dtype])
    torch.testing.assert_close(final_chunks, final, **TOLERANCE[dtype])
    torch.testing.assert_close(state, final, **TOLERANCE[dtype])


@every_layer
@every_model
def test_an_item_does_not_depend_on_its_batch(kind, layer):
    model, ids = make(kind, layer), random_ids(3, 20)
    torch.testing.assert_close(model(ids[1:2])[0], model(ids)[0][1:2], rtol=1e-10, atol=1e-12)
    _, state = model(ids)
    one = map_state(lambda part: part[1:2], state)
    torch.testing.assert_close(model(ids[1:2], one)[0], model(ids, state)[0][1:2], rtol=1e-10, atol=1e-12)


@every_layer
@every_model
def test_gradients_flow_through_the_state(kind, layer):
    model, ids = make(kind, layer), random_ids(2, 20)
    whole = torch.autograd.grad(model(ids)[0].flatten(1)[:, -3:].sum(), list(model.parameters()))
    chunks = torch.autograd.grad(
        in_chunks(model, ids, {4, 15})[0][-1].flatten(1)[:, -3:].sum(), list(model.parameters())
    )
    for a, b in zip(chunks, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@every_layer
def test_losses_of_a_language_model_are_those_of_its_logits(layer):
    model, ids = make("language_model", layer), random_ids(2, 41)
    inputs, targets = ids[:, :-1], ids[:, 1:].long()
    targets[0, 3] = -1
    losses, state = model.losses(inputs, targets)
    logits, expected_state = model(inputs)
    expected = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-1, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state, expected_state, rtol=0, atol=0)
    weights = torch.linspace(-1, 2, losses.numel(), dtype=losses.dtype).view_as(losses)
    found, true = (
        torch.autograd.grad((weights * values).sum(), list(model.parameters()))
        for values in (losses, expected)
    )
    for a, b in zip(found, true, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    first, state = model.losses(inputs[:, :7], targets[:, :7])
    second, _ = model.losses(inputs[:, 7:], targets[:, 7:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), losses, rtol=1e-9, atol=1e-10)


@every_layer
@pytest.mark.parametrize(
    ("dtype", "enabled", "expected"),
    [
        (torch.float32, False, torch.float32),
        (torch.float32, True, torch.bfloat16),
        (torch.float64, True, torch.float64),
    ],
    ids=str,
)
def test_the_residual_follows_autocast(dtype, enabled, expected, layer):
    model, ids = make("language_model", layer, dtype, n_layers=3), random_ids(2, 20)
    sums = []
    for block in model.backbone.blocks:
        block.register_forward_hook(lambda _, __, results: sums.append(results[1]))
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        _, state = model(ids)
        chunks, _ = model(ids[:, :1], state)
        stepped, _ = model.step(ids[:, 0], state)
        with torch.no_grad():
            hidden, _ = model.backbone(ids, None)
            hidden_t, _ = model.backbone.step(ids[:, 0], state)
    # Without a backward pass no sum is kept, and none is rounded, nor what the head makes of the last one.
    assert [part.dtype for part in sums] == 6 * [expected] + 3 * [dtype]
    assert hidden.dtype == hidden_t.dtype == dtype
    error = (stepped - chunks[:, 0]).norm() / chunks.norm()
    assert error < (0.02 if expected == torch.bfloat16 else 1e-5)


@every_layer
def test_a_language_model_knows_no_future(layer):
    model, ids = make("language_model", layer), random_ids(1, 30)
    other = ids.clone()
    other[0, 12] = (ids[0, 12] + 1) % 15
    a, b = model(ids)[0], model(other)[0]
    torch.testing.assert_close(a[:, :12], b[:, :12], rtol=1e-10, atol=1e-12)
    assert (a[:, 12:] - b[:, 12:]).abs().amax(-1).min() > 0


def test_the_mean_of_millions_of_positions_does_not_drift():
    model, ids = make("classifier", "mamba", torch.float32), random_ids(1, 100)
    _, state = model(ids)
    state = state._replace(total=state.total * 50_000, count=state.count * 50_000)
    expected, layers = state.total, state.layers
    for t in range(100):
        hidden, layers = model.backbone.step(ids[:, t], layers)
        expected = expected + hidden.double()
        _, state = model.step(ids[:, t], state)
    assert state.total.dtype == torch.float64 and state.count.item() == 5_000_100
    # Added to float32 sums of this size, each step would lose a third of its digits.
    torch.testing.assert_close(state.total, expected, rtol=1e-13, atol=0)


@every_model
def test_parameter_count(kind):
    model = make(kind, "mamba", d_model=64, d_state=16, n_layers=3)
    mamba = 64 * 256 + 128 * 5 + 128 * 36 + 4 * 128 + 128 + 128 * 16 + 128 + 128 * 64
    head = 64 * 15 if kind == "language_model" else 64 * 3 + 3
    assert sum(p.numel() for p in model.parameters()) == 15 * 64 + 3 * (mamba + 64) + 64 + head


@every_layer
def test_ssm_parameters_come_from_every_layer(layer):
    model = make("classifier", layer, n_layers=3)
    declared = [id(p) for block in model.backbone.blocks for p in block.layer.ssm_parameters()]
    assert [id(p) for p in model.ssm_parameters()] == declared
    count = {"s4": 5, "s5": 4, "gated s5": 4, "lssl": 4}.get(layer, 3)
    assert len(set(declared)) == 3 * count


def test_dropout_acts_in_training_only():
    model, ids = make("classifier", "s4d", dropout=0.5), random_ids(2, 20)
    assert not torch.equal(model(ids)[0], model(ids)[0])
    model.eval()
    assert torch.equal(model(ids)[0], model(ids)[0])


@every_layer
@every_model
def test_autocast_gives_float32_logits(kind, layer):
    model, ids = make(kind, layer, torch.float32), random_ids(2, 20)
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = model(ids)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, model(ids)[0], rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"layer": "mamba3"}, "model.layer=mamba3: there is no such layer; known: mamba, h3, s4, s4d"),
        ({"d_model": 0}, "model.d_model=0: expected a positive whole number"),
        ({"n_layers": -1}, "model.n_layers=-1: expected a positive whole number"),
        ({"layer": "s4", "d_state": 3}, "model.d_state=3: s4's states come in pairs"),
        ({"layer": "s4d", "d_state": 3}, "model.d_state=3: s4d's states come in pairs"),
        ({"layer": "s5", "d_state": 3}, "model.d_state=3: s5's states come in pairs"),
        ({"layer": "dss", "d_state": 3}, "model.d_state=3: dss's states come in pairs"),
        ({"layer": "h3", "d_state": 3}, "model.d_state=3: h3's states come in pairs"),
        ({"layer": "s5", "d_state": 12, "blocks": 4}, "model.d_state=12, model.blocks=4: expected blocks"),
        ({"layer": "s4d", "init": "hippo"}, "model.init=hippo: expected lin, inv, legs, real"),
        ({"layer": "s4", "init": "legs"}, "model.init=legs: only s4d chooses among these, not s4"),
        ({"layer": "s4", "blocks": 2}, "model.blocks=2: only s5 starts from blocks, not s4"),
        ({"layer": "s4d", "hippo": False}, "model.hippo=False: only s4 and lssl start from random systems"),
        ({"gated": True}, "model.gated=True: mamba has gates of its own"),
        ({"dt_min": 0.2}, "model.dt_min=0.2, model.dt_max=0.1: expected 0 < dt_min <= dt_max"),
        ({"dropout": 1.5}, "model.dropout=1.5: expected a probability below 1"),
    ],
)
def test_a_config_without_a_model_is_refused(values, sentence):
    with pytest.raises(InputError) as caught:
        make("classifier", **{"layer": "mamba"} | values)
    assert str(caught.value).startswith(sentence)


@pytest.mark.gpu
@every_layer
@every_model
def test_gpu_agrees_with_cpu(kind, layer):
    model, ids = make(kind, layer, torch.float32), random_ids(2, 200)
    expected, _ = model(ids)
    targets = ids.long().roll(-1, 1)
    losses = model.losses(ids, targets)[0] if kind == "language_model" else None
    model, ids = model.cuda(), ids.cuda()
    chunks, state = in_chunks(model, ids, {70})
    whole = chunks[-1] if kind == "classifier" else torch.cat(chunks, dim=1)
    torch.testing.assert_close(whole.cpu(), expected, **TOLERANCE[torch.float32])
    stepped, _ = model.step(ids[:, 0], state)
    chunked, _ = model(ids[:, :1], state)
    torch.testing.assert_close(stepped, chunked.view_as(stepped), **TOLERANCE[torch.float32])
    with torch.autocast("cuda", torch.bfloat16):
        logits, _ = model(ids)
        logits.square().mean().backward()
    assert logits.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters())
    if losses is not None:
        found, _ = model.losses(ids, targets.cuda())
        torch.testing.assert_close(found.cpu(), losses, **TOLERANCE[torch.float32])
