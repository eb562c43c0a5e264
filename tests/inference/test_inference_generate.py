"""Generation: seeded per item, the distribution that was asked for, step by step as in one pass."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ssm_seq.config import ModelConfig
from ssm_seq.errors import InputError
from ssm_seq.inference import Rule, State, engine, generate, read_prompt
from ssm_seq.inference.draws import philox, uniform
from ssm_seq.models import LanguageModel

LAYERS = pytest.mark.parametrize("layer", ["mamba", "s4d", "s4"])  # the last without fused steps


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
    made = generate(model, PROMPT, 25, rule=Rule(temperature=0))
    model.eval()
    ids = torch.from_numpy(PROMPT)[None]
    for _ in range(25):
        logits, _ = model(ids)
        ids = torch.cat([ids, logits[:, -1].argmax(-1).to(torch.uint8)[:, None]], dim=1)
    assert made.ids.shape == (1, 25) and made.ids.dtype == np.uint8
    np.testing.assert_array_equal(made.ids[0], ids[0, 20:].numpy())
    np.testing.assert_array_equal(generate(model, PROMPT, 25, rule=Rule(top_p=1e-9)).ids, made.ids)


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
    many, one = (
        generate(model, PROMPT, 30, rule=Rule(top_p=0.9), seed=3, count=count).ids for count in (3, 1)
    )
    np.testing.assert_array_equal(many[:1], one)


@LAYERS
def test_prompts_and_stops_do_not_change_the_other_items(layer):
    """Three prompts, each continued twice, with items that leave the batch on the way."""
    model = make(layer)
    prompts = np.random.default_rng(1).integers(0, 15, (3, 9), dtype=np.uint8)
    whole = generate(model, prompts, 40, seed=3, count=2)
    assert whole.lengths.tolist() == [40] * 6
    stop = [whole.ids[1, 10:12], whole.ids[4, 30:33]]
    stopped = generate(model, prompts, 40, seed=3, count=2, stop=stop)
    assert stopped.lengths[1] <= 12 and stopped.lengths[4] <= 33
    for item in range(6):
        length = stopped.lengths[item]
        np.testing.assert_array_equal(stopped.ids[item, :length], whole.ids[item, :length])
        assert not stopped.ids[item, length:].any()
        text = whole.ids[item].tolist()
        ends = [
            place + len(sequence)
            for sequence in map(np.ndarray.tolist, stop)
            for place in range(40 - len(sequence) + 1)
            if text[place : place + len(sequence)] == sequence
        ]
        assert length == min(ends, default=40)


@LAYERS
@pytest.mark.parametrize("cut", [1, 7, 25])
def test_a_run_goes_on_from_its_saved_state(layer, cut, tmp_path):
    model = make(layer)
    whole = generate(model, PROMPT, 40, seed=1, count=3)
    first = generate(model, PROMPT, cut, seed=1, count=3)
    first.state.save(tmp_path / "state", model)
    second = generate(model, State.load(tmp_path / "state", model), 40 - cut, seed=1)
    np.testing.assert_array_equal(np.hstack([first.ids, second.ids]), whole.ids)
    assert second.state.notes == whole.state.notes
    assert torch.equal(second.state.logits, whole.state.logits)


@LAYERS
def test_a_run_goes_on_behind_its_stops(layer):
    """An item that has stopped goes on as if it had not, wherever the others are."""
    model = make(layer)
    whole = generate(model, PROMPT, 60, seed=1, count=3)
    first = generate(model, PROMPT, 30, seed=1, count=3, stop=[whole.ids[0, 12:14], whole.ids[2, 4:6]])
    assert len(set(first.lengths)) > 1
    second = generate(model, first.state, 30, seed=1)
    for item, length in enumerate(first.lengths):
        np.testing.assert_array_equal(second.ids[item], whole.ids[item, length : length + 30])


@LAYERS
def test_a_state_forks(layer):
    model = make(layer)
    direct = generate(model, PROMPT, 20, seed=5, count=3)
    state = read_prompt(model, PROMPT)
    np.testing.assert_array_equal(generate(model, state, 20, seed=5, count=3).ids, direct.ids)
    np.testing.assert_array_equal(generate(model, state.select([0, 0, 0]), 20, seed=5).ids, direct.ids)
    assert state.batch == 1


def test_a_fork_of_a_run_goes_on_in_its_streams():
    """The first of three is the run itself going on; none takes random numbers that the run has taken."""
    model = make()
    whole = generate(model, PROMPT, 40, seed=5)
    fork = generate(model, generate(model, PROMPT, 15, seed=5).state, 25, seed=5, count=3)
    np.testing.assert_array_equal(fork.ids[:1], whole.ids[:, 15:])
    assert fork.state.notes == {"drawn": [40, 40, 40]} and len({row.tobytes() for row in fork.ids}) == 3


@LAYERS
def test_the_state_has_read_the_last_id(layer):
    model = make(layer).eval()
    made = generate(model, PROMPT, 5)
    with torch.no_grad():
        logits, _ = model(torch.from_numpy(np.concatenate([PROMPT, made.ids[0]]))[None])
    torch.testing.assert_close(made.state.logits, logits[:, -1], rtol=1e-9, atol=1e-9)


def test_an_engine_is_made_once_for_many_calls():
    model = make()
    with torch.inference_mode():
        run_by = engine(model.eval())
    np.testing.assert_array_equal(
        generate(model, PROMPT, 20, run_by=run_by).ids, generate(model, PROMPT, 20).ids
    )


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs/generation.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    make().float().save("results/genome/model")
    names: dict = {}
    exec(compile(code, "generation.md", "exec"), names)
    assert len(capsys.readouterr().out.split()) == 8 and names["more"].ids.shape == (8, 60)


@LAYERS
def test_damaged_weights_are_noticed(layer):
    model = make(layer)
    with torch.no_grad():
        model.backbone.blocks[1].layer.out_proj.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"tensor backbone.blocks.1.layer.out_proj.weight .* NaN"):
        generate(model, PROMPT, 5)


@LAYERS
def test_numbers_that_overflow_are_noticed(layer):
    model = make(layer)
    with torch.no_grad():
        model.head.weight.fill_(1e308)
    with pytest.raises(InputError, match="logits are not finite"):
        generate(model, PROMPT, 5)


def test_a_state_without_logits_is_refused():
    model = make()
    with pytest.raises(InputError, match="no logits"):
        generate(model, State(model.initial_state(1)), 5)


@LAYERS
def test_a_state_of_a_model_of_another_form_is_refused(layer):
    model = make(layer)
    wider = LanguageModel(ModelConfig(layer=layer, d_model=8, n_layers=2, d_state=4), 15, "dna").double()
    for other in (make(layer).float(), make("ema"), wider):
        with pytest.raises(InputError, match="the state is none of this model"):
            generate(model, read_prompt(other, PROMPT), 5)


@pytest.mark.gpu
@pytest.mark.parametrize("layer", ["mamba", "s4d", "s4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_an_item_does_not_depend_on_its_batch(layer, dtype):
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(layer=layer, d_model=64, n_layers=2, d_state=16), 256, "mu_law").cuda()
    run_by = engine(model, dtype)
    made = {count: generate(model, PROMPT, 40, seed=2, count=count, run_by=run_by) for count in (1, 3, 70)}
    for count in (1, 3):
        np.testing.assert_array_equal(made[count].ids, made[70].ids[:count])
        assert torch.equal(made[count].state.logits, made[70].state.logits[:count])


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_random_words_are_those_of_the_authors(counter, key, words):
    """The known answers that come with the paper's code (Random123)."""
    found = philox([torch.tensor(word) for word in counter], key)
    assert " ".join(f"{int(word):08x}" for word in found) == words


def test_draws_are_uniform_and_different():
    draws = uniform(3, torch.arange(50)[:, None], torch.arange(400))
    assert draws.dtype == torch.float64 and draws.min() >= 0 and draws.max() < 1
    assert len(draws.unique()) == draws.numel()
    counts = torch.histc(draws, 20, 0, 1)
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-squared, 19 degrees: above once in a thousand
    assert not torch.equal(draws, uniform(4, torch.arange(50)[:, None], torch.arange(400)))
    far = uniform(3, torch.tensor([2**40]), torch.tensor([2**40 + 1]))
    assert 0 <= float(far) < 1


def test_a_longer_run_begins_like_a_shorter_one():
    model = make()
    np.testing.assert_array_equal(
        generate(model, PROMPT, 40, seed=1).ids[:, :15], generate(model, PROMPT, 15, seed=1).ids
    )


@LAYERS
def test_a_prompt_is_read_in_chunks(layer, monkeypatch):
    model = make(layer)
    whole = generate(model, PROMPT, 20, seed=2).ids
    monkeypatch.setattr(sys.modules[read_prompt.__module__], "PROMPT_CHUNK", 6)
    np.testing.assert_array_equal(generate(model, PROMPT, 20, seed=2).ids, whole)


def test_without_a_prompt_the_first_id_is_uniform():
    made = generate(make(), PROMPT[:0], 2, count=1500, seed=0)
    counts = np.bincount(made.ids[:, 0], minlength=15)
    assert counts.min() > 60 and counts.max() < 145  # 100 expected, standard deviation 10


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
        ({"seed": -1}, "generate.seed=-1: expected 0 to 2.64 - 1"),
        ({"seed": 2**64}, "expected 0 to 2.64 - 1"),
        ({"stop": [[]]}, "generate.stop: expected sequences of at least one id"),
        ({"stop": [[3, 15]]}, "generate.stop: there is no id 15, the model has 0 to 14"),
        ({"prompt": np.array([3, 200], np.uint8)}, "prompt: there is no id 200, the model has 0 to 14"),
    ],
)
def test_values_out_of_range_are_refused(values, sentence):
    with pytest.raises(InputError, match=sentence):
        generate(make(), **{"prompt": PROMPT, "length": 5} | values)
