"""One pass over long records and windows: the same figures for every chunk, in constant memory."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssm_seq.config import ModelConfig
from ssm_seq.errors import InputError
from ssm_seq.inference import bits_of_windows, classify_windows, score_record
from ssm_seq.models import Classifier, LanguageModel

LAYERS = pytest.mark.parametrize("layer", ["mamba", "s4", "s4d"])


def make(kind, layer="mamba", dropout=0.0, d_model=6):
    torch.manual_seed(0)
    config = ModelConfig(layer=layer, d_model=d_model, n_layers=2, d_state=4, dropout=dropout)
    model = (
        Classifier(config, 15, ["one", "two", "three"], "dna")
        if kind == "classifier"
        else LanguageModel(config, 15, "dna")
    )
    with torch.no_grad():  # away from indifference
        model.head.weight.mul_(5)
    return model.double()


def random_ids(*shape):
    return np.random.default_rng(0).integers(0, 15, shape, dtype=np.uint8)


def read(ids):
    return lambda start, end: ids[start:end]


def bits_by_hand(model, ids):
    logits, _ = model(torch.from_numpy(ids).long())
    nats = F.cross_entropy(
        logits[:, :-1].transpose(1, 2), torch.from_numpy(ids[:, 1:]).long(), reduction="none"
    )
    bits = nats.detach().numpy() / math.log(2)
    return np.concatenate([np.full((len(ids), 1), math.log2(15)), bits], axis=1)


@LAYERS
@pytest.mark.parametrize("chunk", [1, 7, 33, 100, 1000])
def test_a_classifiers_track(layer, chunk):
    model, ids = make("classifier", layer), random_ids(100)
    score = score_record(model, read(ids), 100, chunk)
    ends = [min(end, 100) for end in range(chunk, 100 + chunk, chunk)]
    assert [point["position"] for point in score.track] == ends
    for point in score.track:
        logits, _ = model(torch.from_numpy(ids[None, : point["position"]]))
        np.testing.assert_allclose(point["probabilities"], logits.softmax(-1)[0].tolist(), rtol=1e-8)
    assert score.classes == ["one", "two", "three"] and score.total_bits is None


@LAYERS
@pytest.mark.parametrize("chunk", [1, 7, 33, 100, 1000])
def test_a_language_models_track(layer, chunk):
    model, ids = make("language_model", layer), random_ids(100)
    score = score_record(model, read(ids), 100, chunk)
    bits = bits_by_hand(model, ids[None])[0]
    start = 0
    for point in score.track:
        expected = bits[start : point["position"]].mean()
        assert point["bits_per_byte"] == pytest.approx(expected, rel=1e-8)
        start = point["position"]
    assert start == 100
    assert score.total_bits == pytest.approx(bits.sum(), rel=1e-8)
    assert score.classes is None


def test_a_score_is_ready_for_json():
    score = score_record(make("classifier"), read(random_ids(50)), 50, 20)
    again = json.loads(json.dumps(asdict(score)))
    assert again["length"] == 50
    assert [point["position"] for point in again["memory"]] == [20, 40, 50]
    assert all(20 < point["resident_mib"] < 1e5 for point in again["memory"])
    assert again["positions_per_second"] == pytest.approx(50 / again["seconds"])


def test_a_record_is_read_once_in_order_and_in_chunks_only():
    asked = []

    def reader(start, end):
        asked.append((start, end))
        return random_ids(end - start)

    score_record(make("classifier"), reader, 100, 30)
    assert asked == [(0, 30), (30, 60), (60, 90), (90, 100)]


def test_memory_is_flat():
    """2 million positions at once would take gigabytes; in chunks, the last adds nothing to the first."""
    model = make("classifier", d_model=8).float()
    ids = random_ids(4096)
    score = score_record(model, lambda start, end: ids[: end - start], 2_000_000, 4096)
    resident = [point["resident_mib"] for point in score.memory]
    assert max(resident[20:]) - resident[20] < 20


@pytest.mark.parametrize("layer", ["mamba", "s4", "s4d"])
@pytest.mark.parametrize("chunk", [1, 13, 40, 4096])
def test_windows_are_classified_whatever_the_chunk(layer, chunk):
    model, ids = make("classifier", layer), random_ids(5, 40)
    probabilities = classify_windows(model, [ids[:2], ids[2:]], chunk)
    expected = model(torch.from_numpy(ids))[0].softmax(-1).detach().numpy()
    assert probabilities.shape == (5, 3)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-8)


@pytest.mark.parametrize("chunk", [1, 13, 40, 4096])
def test_bits_of_windows_whatever_the_chunk(chunk):
    model, ids = make("language_model"), random_ids(5, 40)
    bits = bits_of_windows(model, iter([ids[:2], ids[2:]]), chunk)
    np.testing.assert_allclose(bits, bits_by_hand(model, ids), rtol=1e-8)


def test_a_perfect_past_makes_a_free_byte():
    """A head that is sure of id 3 pays nothing for it and much for others."""
    model = make("language_model")
    with torch.no_grad():
        model.backbone.norm.weight.zero_()
    model.head = torch.nn.Linear(6, 15).double()
    with torch.no_grad():
        model.head.bias.copy_(torch.full((15,), -50.0))
        model.head.bias[3] = 50
    bits = bits_of_windows(model, [np.array([[3, 3, 3, 5]], np.uint8)], 2)[0]
    np.testing.assert_allclose(bits, [math.log2(15), 0, 0, 100 / math.log(2)], atol=1e-9)


def test_dropout_is_off_and_the_mode_comes_back():
    model, ids = make("classifier", dropout=0.5), random_ids(2, 40)
    assert model.training
    first, second = classify_windows(model, [ids], 10), classify_windows(model, [ids], 10)
    np.testing.assert_array_equal(first, second)
    assert model.training


def test_memory_maps_and_reversed_views_are_read(tmp_path):
    ids = random_ids(60)
    np.save(tmp_path / "ids.npy", ids)
    mapped = np.load(tmp_path / "ids.npy", mmap_mode="r")
    model = make("classifier")
    forward = score_record(model, read(mapped), 60, 25)
    assert forward.track == score_record(model, read(ids), 60, 25).track
    backward = score_record(model, read(mapped[::-1]), 60, 25)
    assert backward.track == score_record(model, read(ids[::-1].copy()), 60, 25).track


@pytest.mark.parametrize("function", [classify_windows, bits_of_windows])
def test_a_chunk_of_nothing_is_refused(function):
    with pytest.raises(InputError, match="chunk=0: expected a positive number of positions"):
        function(make("classifier"), [random_ids(2, 4)], 0)
    with pytest.raises(InputError, match="chunk=-3"):
        score_record(make("classifier"), read(random_ids(4)), 4, -3)
