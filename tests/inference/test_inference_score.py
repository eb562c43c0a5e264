"""A record in one pass: values of every position whatever the chunk, the pass stopped and gone on with."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_seq.config import ModelConfig
from ssm_seq.errors import InputError
from ssm_seq.inference import score, score_chunk, score_record
from ssm_seq.inference.score_chunk import choose_chunk, position_bytes
from ssm_seq.inference.score_values import EMBEDDING, ENTROPY, LOG_LIKELIHOOD, PROBABILITY
from ssm_seq.models import Classifier, LanguageModel

LAYERS = pytest.mark.parametrize("layer", ["mamba", "s4d"])
LIKELIHOODS = [LOG_LIKELIHOOD, ENTROPY, EMBEDDING]


def make(layer="mamba", kind="language_model", dtype=torch.float32):
    torch.manual_seed(0)
    config = ModelConfig(layer=layer, d_model=6, n_layers=2, d_state=4)
    model = LanguageModel(config, 15, "dna")
    if kind == "classifier":
        model = Classifier(config, 15, ["one", "two", "three"], "dna")
    with torch.no_grad():  # away from indifference
        model.head.weight.mul_(5)
    return model.to(dtype).eval()


def random_ids(length, seed=0):
    return np.random.default_rng(seed).integers(0, 15, length, dtype=np.uint8)


def scored(model, ids, chunk, wanted, **options):
    rows = {name: [] for name in wanted}

    def sink(start, values):
        assert values.keys() == rows.keys()
        for name, part in values.items():
            assert part.dtype == np.float32 and start == sum(map(len, rows[name]))
            rows[name].append(part)

    score = score_record(model, lambda a, b: ids[a:b], len(ids), chunk, wanted, sink, **options)
    return score, {name: np.concatenate(parts) for name, parts in rows.items()}


@pytest.mark.parametrize("layer", ["mamba", "h3", "s4", "s4d", "s5", "dss", "lssl", "ema"])
@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from([torch.float32, torch.float64]),
    length=st.integers(1, 200),
    chunk=st.integers(1, 200),
    seed=st.integers(0, 9),
)
def test_values_do_not_depend_on_the_chunk(layer, dtype, length, chunk, seed):
    model, ids = make(layer, dtype=dtype), random_ids(length, seed)
    _, whole = scored(model, ids, length, LIKELIHOODS)
    for size in (chunk, 1):
        _, chunked = scored(model, ids, size, LIKELIHOODS)
        for name in LIKELIHOODS:
            limit = 1e-4 if dtype == torch.float32 else 1e-6
            np.testing.assert_allclose(chunked[name], whole[name], atol=limit, rtol=limit, err_msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["language_model", "classifier"])
@pytest.mark.parametrize("half", [False, True])
def test_many_chunks_on_a_gpu_are_those_of_a_cpu(kind, half):
    model, ids = make(kind=kind), random_ids(3000)
    wanted = [EMBEDDING, *(LIKELIHOODS[:2] if kind == "language_model" else [PROBABILITY])]
    expected, on_cpu = scored(model, ids, 100, wanted, pooled=True)
    model.cuda()
    found, replayed = scored(model, ids, 100, wanted, pooled=True, half=half)
    again, few = scored(model, ids, 400, wanted, pooled=True, half=half)  # too few to be recorded
    limit = 0.3 if half else 1e-3
    for name in wanted:
        np.testing.assert_allclose(replayed[name], on_cpu[name], atol=limit, rtol=0, err_msg=name)
        np.testing.assert_allclose(few[name], replayed[name], atol=limit, rtol=0, err_msg=name)
    for one in (found, again):
        np.testing.assert_allclose(one.pooled, expected.pooled, atol=limit)
        assert one.total_bits == (expected.total_bits and pytest.approx(expected.total_bits, rel=limit))
    assert [point["position"] for point in found.track] == list(range(100, 3001, 100))


@LAYERS
def test_likelihoods_and_entropies_by_hand(layer):
    model, ids = make(layer, dtype=torch.float64), random_ids(60)
    score, values = scored(model, ids, 13, LIKELIHOODS)
    with torch.inference_mode():
        logits, _ = model(torch.from_numpy(ids)[None])
        hidden, _ = model.backbone(torch.from_numpy(ids)[None], None)
    log = logits[0, :-1].log_softmax(-1).numpy()
    expected = [-math.log(15), *log[np.arange(59), ids[1:]]]
    np.testing.assert_allclose(values[LOG_LIKELIHOOD], expected, rtol=1e-6)
    np.testing.assert_allclose(values[ENTROPY], [math.log(15), *-(np.exp(log) * log).sum(1)], rtol=1e-6)
    np.testing.assert_allclose(values[EMBEDDING], hidden[0].numpy(), rtol=1e-6)
    assert score.total_bits == pytest.approx(-sum(expected) / math.log(2), rel=1e-9)


@LAYERS
@pytest.mark.parametrize("chunk", [1, 16, 50])
def test_classes_so_far_at_every_position(layer, chunk):
    model, ids = make(layer, "classifier", torch.float64), random_ids(50)
    score, values = scored(model, ids, chunk, [PROBABILITY])
    assert values[PROBABILITY].shape == (50, 3)
    for position in (1, 2, 16, 17, 50):
        with torch.inference_mode():
            logits, _ = model(torch.from_numpy(ids[:position])[None])
        np.testing.assert_allclose(values[PROBABILITY][position - 1], logits.softmax(-1)[0], rtol=1e-6)
    np.testing.assert_allclose(values[PROBABILITY][-1], score.track[-1]["probabilities"], rtol=1e-6)


@pytest.mark.parametrize("kind", ["language_model", "classifier"])
def test_pooled_is_the_mean_of_the_embedding(kind):
    model, ids = make(kind=kind), random_ids(50)
    score, values = scored(model, ids, 16, [EMBEDDING], pooled=True)
    np.testing.assert_allclose(score.pooled, values[EMBEDDING].mean(0), rtol=1e-4, atol=1e-6)
    assert scored(model, ids, 16, [EMBEDDING])[0].pooled is None


@LAYERS
@pytest.mark.parametrize("kind", ["language_model", "classifier"])
def test_a_stopped_pass_goes_on_to_the_same_bits(layer, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "SAVE_EVERY", 0)
    model, ids, saved = make(layer, kind), random_ids(100), tmp_path / "state"
    wanted = [EMBEDDING, PROBABILITY if kind == "classifier" else LOG_LIKELIHOOD]
    expected, whole = scored(model, ids, 16, wanted, pooled=True)
    rows, stops = {name: np.full(values.shape, np.nan, np.float32) for name, values in whole.items()}, [2, 5]

    def sink(start, values):
        for name, part in values.items():
            rows[name][start : start + len(part)] = part
        if stops and start == 16 * stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            score_record(model, lambda a, b: ids[a:b], 100, 16, wanted, sink, saved, True)
    asked = []
    found = score_record(
        model, lambda a, b: asked.append(a) or ids[a:b], 100, None, wanted, sink, saved, True
    )
    assert asked == [80, 96]
    assert (found.track, found.total_bits, found.pooled, found.chunk) == (
        expected.track,
        expected.total_bits,
        expected.pooled,
        16,
    )
    assert [point["position"] for point in found.memory] == [16, 32, 48, 64, 80, 96, 100]
    for name in wanted:
        np.testing.assert_array_equal(rows[name], whole[name])


def test_a_state_of_another_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(score, "SAVE_EVERY", 0)
    scored(make(), random_ids(20), 7, [], saved=tmp_path / "state")
    with pytest.raises(InputError, match=r"the state of model .*; this is model"):
        scored(make("s4d"), random_ids(20), 7, [], saved=tmp_path / "state")


def test_a_chunk_that_does_not_fit_is_halved(monkeypatch):
    model, ids = make(), random_ids(100)
    _, expected = scored(model, ids, 100, [LOG_LIKELIHOOD])
    forward = model.backbone.forward

    def small_memory(ids, state):
        if ids.shape[1] > 30:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(ids, state)

    monkeypatch.setattr(model.backbone, "forward", small_memory)
    with pytest.warns(UserWarning, match="positions at once don't fit memory") as warned:
        found, values = scored(model, ids, 100, [LOG_LIKELIHOOD])
    assert [str(each.message).rpartition(" ")[2] for each in warned] == ["50", "25"]
    assert found.chunk == 25
    np.testing.assert_allclose(values[LOG_LIKELIHOOD], expected[LOG_LIKELIHOOD], atol=1e-5)


@pytest.mark.gpu
def test_a_chunk_that_does_not_fit_a_gpu_is_halved():
    model, length = LanguageModel(ModelConfig(d_model=256, n_layers=1), 15, "dna").cuda(), 1 << 19
    ids = random_ids(length)
    _, expected = scored(model, ids, 1 << 15, [LOG_LIKELIHOOD])
    torch.cuda.empty_cache()
    room = (torch.cuda.memory_reserved() + 2**30) / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(room)
    try:
        with pytest.warns(UserWarning, match=f"{length} positions at once don't fit memory; going on with"):
            found, values = scored(model, ids, length, [LOG_LIKELIHOOD])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 1 << 14 <= found.chunk < length
    np.testing.assert_allclose(values[LOG_LIKELIHOOD], expected[LOG_LIKELIHOOD], atol=1e-4)


def test_no_room_for_a_single_position(monkeypatch):
    model = make()

    def no_memory(ids, state):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ...")

    monkeypatch.setattr(model.backbone, "forward", no_memory)
    with pytest.warns(UserWarning), pytest.raises(InputError, match="not even one position fits memory"):
        scored(model, random_ids(9), 4, [])


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    def broken(ids, state):
        raise RuntimeError("something else")

    model = make()
    monkeypatch.setattr(model.backbone, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        scored(model, random_ids(9), 4, [])


def test_the_chunk_follows_the_free_memory(monkeypatch):
    model, mib = make(), 2**20
    sizes = [choose_chunk(model, free) for free in (0, mib, 8 * mib, 2**40)]
    assert sizes[0] == 64 and sizes == sorted(sizes) and sizes[-1] == 8192
    assert sizes[1] * position_bytes(model) <= mib / 4 < 2 * sizes[1] * position_bytes(model)
    assert choose_chunk(model) in [2**power for power in range(6, 14)]
    monkeypatch.setattr(score_chunk, "_number", {"memory.max": 5000, "memory.current": 4000}.get)
    assert score_chunk.free_memory(torch.device("cpu")) == 1000
    assert scored(model, random_ids(100), None, [])[0].chunk == 64


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(value):
    model = make()
    with torch.no_grad():
        model.backbone.blocks[1].layer.D[3] = value
    with pytest.raises(InputError, match=r"tensor backbone\.blocks\.1\.layer\.D of the model holds NaN"):
        scored(model, random_ids(9), 4, [])


@pytest.mark.parametrize("kind", ["language_model", "classifier"])
def test_results_that_are_no_numbers_are_refused(kind):
    model = make(kind=kind)
    with torch.no_grad():
        model.head.weight.fill_(3e38)
        model.backbone.norm.weight[0] = 3e38
    with pytest.raises(InputError, match="positions 1 to 4: the model gives NaN or infinite values"):
        scored(model, random_ids(9), 4, [])


def test_an_empty_record_is_refused():
    with pytest.raises(InputError, match="the record is empty"):
        scored(make(), random_ids(0), 4, [])


def test_a_record_longer_than_promised_is_refused():
    ids = random_ids(50)
    with pytest.raises(InputError, match="more than the 40 positions that its index promises"):
        score_record(make(), lambda a, b: ids[a : b + 1], 40, 16)


def test_a_record_shorter_than_promised_is_refused():
    ids = random_ids(50)
    with pytest.raises(InputError, match="the record ends after 50 of 90 positions"):
        score_record(make(), lambda a, b: ids[a:b], 90, 16)
