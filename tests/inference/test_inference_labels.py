"""Generation by class: the label's token is read first, and everything else is as ever."""

import numpy as np
import pytest
import torch

from ssm_seq.config import Config, DataConfig, ModelConfig, OptimConfig, TaskConfig
from ssm_seq.data.alphabet import DNA
from ssm_seq.data.store import Store, StoreWriter
from ssm_seq.errors import InputError
from ssm_seq.inference import Rule, State, concatenate, engine, fingerprint, generate, read_prompt
from ssm_seq.models import LanguageModel, load_model
from ssm_seq.training import train

LAYERS = pytest.mark.parametrize("layer", ["mamba", "s4d", "s4"])  # the last without fused steps
PROMPT = np.random.default_rng(0).integers(0, 15, 20, dtype=np.uint8)


def make(layer="mamba", classes=("calm", "wild"), seed=0):
    torch.manual_seed(seed)
    model = LanguageModel(
        ModelConfig(layer=layer, d_model=6, n_layers=2, d_state=4), 15, "dna", classes=classes
    )
    with torch.no_grad():  # away from indifference
        model.head.weight.mul_(4)
        model.backbone.embedding.weight.mul_(20)
    return model.double()


@LAYERS
def test_likeliest_ids_are_those_of_whole_passes_behind_the_token(layer):
    model = make(layer).eval()
    for prompt in (PROMPT, PROMPT[:0]):
        for number, label in enumerate(model.classes):
            made = generate(model, prompt, 15, Rule(temperature=0), label=label).ids[0]
            ids = torch.tensor([[15 + number, *prompt]])
            for _ in range(15):
                with torch.no_grad():
                    logits, _ = model(ids)
                ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
            np.testing.assert_array_equal(made, ids[0, 1 + len(prompt) :])
        calm, wild = (read_prompt(model, prompt, label).logits for label in model.classes)
        assert not torch.allclose(calm, wild)


@LAYERS
def test_an_item_does_not_depend_on_its_batch_or_the_labels_in_it(layer):
    model = make(layer)
    alone = generate(model, PROMPT, 30, seed=3, label="wild")
    many = generate(model, PROMPT, 30, seed=3, label="wild", count=3)
    np.testing.assert_array_equal(many.ids[:1], alone.ids)
    mixed = concatenate([read_prompt(model, PROMPT, label) for label in ("wild", "calm", None)])
    beside = generate(model, mixed, 30, seed=3)
    np.testing.assert_array_equal(beside.ids[:1], alone.ids)
    assert torch.equal(beside.state.logits[:1], alone.state.logits)


@LAYERS
def test_many_prompts_behind_one_label_are_read_one_by_one(layer):
    model = make(layer)
    prompts = np.random.default_rng(1).integers(0, 15, (9, 7), dtype=np.uint8)
    together, last = read_prompt(model, prompts, "calm"), read_prompt(model, prompts[8], "calm")
    assert torch.equal(together.logits[8:], last.logits)


@LAYERS
def test_a_state_with_a_label_is_saved_and_forked(layer, tmp_path):
    model = make(layer)
    whole = generate(model, PROMPT[:0], 40, seed=1, count=3, label="wild")
    fork = generate(model, read_prompt(model, PROMPT[:0], "wild"), 15, seed=1, count=3)
    fork.state.save(tmp_path / "state", model)
    rest = generate(model, State.load(tmp_path / "state", model), 25, seed=1)
    np.testing.assert_array_equal(np.hstack([fork.ids, rest.ids]), whole.ids)
    with pytest.raises(InputError, match="the state of model"):
        State.load(tmp_path / "state", make(layer, classes=("calm", "wise")))


@pytest.mark.gpu
@pytest.mark.parametrize("layer", ["mamba", "s4d", "s4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_labels_in_one_batch_on_a_gpu(layer, dtype):
    torch.manual_seed(0)
    config = ModelConfig(layer=layer, d_model=64, n_layers=2, d_state=16)
    model = LanguageModel(config, 256, "mu_law", classes=["a", "b"]).cuda()
    run_by = engine(model, dtype)
    alone = generate(model, PROMPT, 40, seed=2, label="b", run_by=run_by)
    states = [read_prompt(model, PROMPT, label, run_by.dtype) for label in ("b", "a", None)]
    mixed = generate(model, concatenate(states), 40, seed=2, run_by=run_by)
    np.testing.assert_array_equal(mixed.ids[:1], alone.ids)
    together = read_prompt(model, np.tile(PROMPT, (9, 1)), "b", run_by.dtype)
    assert torch.equal(together.logits[3:4], states[0].logits)


def test_labels_and_states_that_do_not_fit_are_refused():
    model = make()
    with pytest.raises(InputError, match=r"label 'tame': the model has no such class; known: calm, wild$"):
        generate(model, PROMPT, 5, label="tame")
    with pytest.raises(InputError, match="label 'calm': the model was trained without labels"):
        generate(make(classes=()), PROMPT, 5, label="calm")
    with pytest.raises(InputError, match="give a label or a state"):
        generate(model, read_prompt(model, PROMPT), 5, label="calm")
    with pytest.raises(InputError, match="there is no id 15, the model has 0 to 14"):
        generate(model, np.array([15], np.uint8), 5)  # a label's token is no letter


def test_labels_are_saved_with_the_model_and_belong_to_it(tmp_path):
    model = make().float()
    model.save(tmp_path / "model")
    assert load_model(tmp_path / "model").classes == ["calm", "wild"]
    assert fingerprint(model) != fingerprint(make(classes=("wild", "calm")).float())
    plain = make(classes=()).float()
    plain.save(tmp_path / "plain")
    assert load_model(tmp_path / "plain").classes == [] and "classes" not in plain.description()


def test_a_model_learns_what_its_labels_mean(tmp_path):
    """Two kinds of DNA, of the letters A and C mostly: each label makes its own, and none makes both."""
    random = np.random.default_rng(0)
    with StoreWriter(tmp_path / "store", "dna") as writer:
        for label, share in (("A-rich", 0.9), ("C-rich", 0.1)):
            letters = random.choice(np.frombuffer(b"AC", np.uint8), 3000, p=[share, 1 - share])
            writer.add(label, [letters.tobytes()], label=label, split="train")
    config = Config(
        data=DataConfig(window=32),
        task=TaskConfig("language_model", labelled=0.75),
        model=ModelConfig(d_model=16, n_layers=1, d_state=4),
        optim=OptimConfig(steps=60, batch_size=16, lr=1e-2),
    )
    train(config, Store.open(tmp_path / "store"), tmp_path / "run")
    model = load_model(tmp_path / "run/model")
    assert model.classes == ["A-rich", "C-rich"]
    shares = {}
    for label in (*model.classes, None):
        made = generate(model, DNA.encode(b""), 16, count=50, label=label)
        shares[label] = [float((row == 0).mean()) for row in made.ids]
    assert np.mean(shares["A-rich"]) > 0.8 and np.mean(shares["C-rich"]) < 0.2
    assert 0.2 < np.mean(shares[None]) < 0.8
