"""Generation: seeded per item, the distribution that was asked for, step by step as in one pass."""

import sys

import numpy as np
import pytest
import torch

from ssm_seq.config import ModelConfig
from ssm_seq.errors import InputError
from ssm_seq.inference.generate import _sample, generate
from ssm_seq.models import LanguageModel

LAYERS = pytest.mark.parametrize("layer", ["mamba", "s4d"])


def make(layer="mamba", vocab_size=15):
    torch.manual_seed(0)
    model = LanguageModel(
        ModelConfig(layer=layer, d_model=6, n_layers=2, d_state=4, dropout=0.3), vocab_size, "dna"
    )
    with torch.no_grad():  # away from indifference
        model.head.weight.mul_(4)
    return model.double()


PROMPT = np.random.default_rng(0).integers(0, 15, 20, dtype=np.uint8)


def test_ids_of_a_large_vocabulary_are_whole():
    made = generate(make(vocab_size=2000), PROMPT, 50)
    assert made.ids.dtype == np.int64 and 256 < made.ids.max() < 2000


@LAYERS
def test_greedy_steps_are_the_argmax_of_whole_passes(layer):
    model = make(layer)
    made = generate(model, PROMPT, 25, temperature=0)
    model.eval()
    ids = torch.from_numpy(PROMPT)[None]
    for _ in range(25):
        logits, _ = model(ids)
        ids = torch.cat([ids, logits[:, -1].argmax(-1).to(torch.uint8)[:, None]], dim=1)
    assert made.ids.shape == (1, 25) and made.ids.dtype == np.uint8
    np.testing.assert_array_equal(made.ids[0], ids[0, 20:].numpy())
    np.testing.assert_array_equal(generate(model, PROMPT, 25, top_p=1e-9).ids, made.ids)


@LAYERS
def test_a_seed_gives_one_sequence(layer):
    model = make(layer)
    first = generate(model, PROMPT, 30, seed=4, count=2).ids
    np.testing.assert_array_equal(generate(model, PROMPT, 30, seed=4, count=2).ids, first)
    other = generate(model, PROMPT, 30, seed=5, count=2).ids
    assert len({row.tobytes() for row in [*first, *other]}) == 4


@LAYERS
def test_an_item_does_not_depend_on_its_batch(layer):
    model = make(layer)
    many, one = (generate(model, PROMPT, 30, top_p=0.9, seed=3, count=count).ids for count in (3, 1))
    np.testing.assert_array_equal(many[:1], one)


def test_a_longer_run_begins_like_a_shorter_one():
    model = make()
    np.testing.assert_array_equal(
        generate(model, PROMPT, 40, seed=1).ids[:, :15], generate(model, PROMPT, 15, seed=1).ids
    )


@LAYERS
def test_a_prompt_is_read_in_chunks(layer, monkeypatch):
    model = make(layer)
    whole = generate(model, PROMPT, 20, seed=2).ids
    monkeypatch.setattr(sys.modules[generate.__module__], "PROMPT_CHUNK", 6)
    np.testing.assert_array_equal(generate(model, PROMPT, 20, seed=2).ids, whole)


def test_without_a_prompt_the_first_id_is_uniform():
    made = generate(make(), PROMPT[:0], 2, count=1500, seed=0)
    counts = np.bincount(made.ids[:, 0], minlength=15)
    assert counts.min() > 60 and counts.max() < 145  # 100 expected, standard deviation 10


def test_draws_follow_the_distribution():
    logits = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1, 0.0], dtype=torch.float64))
    draws = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    rows = logits.expand(1000, -1)

    def shares(temperature, top_p):
        return np.bincount(_sample(rows, draws, temperature, top_p), minlength=5) / 1000

    np.testing.assert_allclose(shares(1.0, 1.0), [0.5, 0.25, 0.15, 0.1, 0], atol=0.0011)
    squares = np.array([0.25, 0.0625, 0.0225, 0.01, 0])
    np.testing.assert_allclose(shares(0.5, 1.0), squares / squares.sum(), atol=0.0011)
    np.testing.assert_allclose(shares(1.0, 0.7), np.array([2, 1, 0, 0, 0]) / 3, atol=0.0011)
    np.testing.assert_allclose(shares(1.0, 0.76), np.array([0.5, 0.25, 0.15, 0, 0]) / 0.9, atol=0.0011)
    assert shares(0, 1.0)[0] == 1


def test_top_p_keeps_the_order_of_ids():
    logits = torch.log(torch.tensor([[0.1, 0.6, 0.3]], dtype=torch.float64))
    chosen = {
        int(_sample(logits, torch.tensor([u], dtype=torch.float64), 1.0, 0.8)) for u in (0.0, 0.5, 0.99)
    }
    assert chosen == {1, 2}


def test_the_highest_draw_stays_in_the_alphabet():
    draw = torch.tensor([np.nextafter(1.0, 0.0)], dtype=torch.float64)
    for seed in range(50):
        logits = torch.randn(1, 256, generator=torch.Generator().manual_seed(seed))
        assert 0 <= int(_sample(logits, draw, 1.0, 1.0)) < 256
        assert 0 <= int(_sample(logits, draw, 1.0, 0.9)) < 256


def test_training_mode_and_threads_come_back():
    model, threads = make(), torch.get_num_threads()
    made = generate(model, PROMPT, 10)
    assert model.training and torch.get_num_threads() == threads
    assert made.steps_per_second == pytest.approx(10 / made.seconds)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"length": 0}, "generate.length=0: expected a positive whole number"),
        ({"count": 0}, "generate.count=0: expected a positive whole number"),
        ({"temperature": -0.1}, "generate.temperature=-0.1: expected 0 or more"),
        ({"top_p": 0.0}, "generate.top_p=0.0: expected more than 0 and at most 1"),
        ({"top_p": 1.1}, "generate.top_p=1.1: expected more than 0 and at most 1"),
        ({"seed": -1}, "generate.seed=-1: expected 0 or more"),
    ],
)
def test_values_out_of_range_are_refused(values, sentence):
    with pytest.raises(InputError, match=sentence):
        generate(make(), PROMPT, **{"length": 5} | values)
