"""Both directions: what it is, and that it refuses to stream."""

import pytest
import torch

from ssm_seq.config import ModelConfig
from ssm_seq.errors import InputError
from ssm_seq.inference import State
from ssm_seq.inference.state import state_bytes
from ssm_seq.layers import S5, Bidirectional, Mamba, NotCausal
from ssm_seq.models import Classifier, LanguageModel, load_model

SENTENCE = "needs the whole sequence at once"


def test_is_one_layer_ahead_and_one_back():
    torch.manual_seed(0)
    ahead, back = S5(5, 6), Mamba(5)
    layer = Bidirectional(5, ahead, back).double()
    x = torch.randn(2, 30, 5, dtype=torch.float64)
    y, state = layer(x)
    both = torch.cat([ahead(x)[0], back(x.flip(1))[0].flip(1)], dim=-1)
    torch.testing.assert_close(y, both @ layer.out_proj.weight.mT + layer.out_proj.bias)
    assert state == ()


def test_every_output_knows_every_input():
    torch.manual_seed(0)
    layer = Bidirectional(3, S5(3, 4), S5(3, 4)).double()
    x = torch.randn(1, 12, 3, dtype=torch.float64, requires_grad=True)
    for position in (0, 5, 11):
        (gradient,) = torch.autograd.grad(layer(x)[0][:, position].sum(), x)
        assert gradient.abs().amax(-1).min() > 1e-9


def test_a_reversed_sequence_gives_reversed_outputs_if_the_directions_are_swapped():
    torch.manual_seed(0)
    ahead, back = S5(3, 4).double(), S5(3, 4).double()
    layer, mirrored = Bidirectional(3, ahead, back).double(), Bidirectional(3, back, ahead).double()
    with torch.no_grad():
        mirrored.out_proj.weight.copy_(layer.out_proj.weight.roll(3, dims=1))
        mirrored.out_proj.bias.copy_(layer.out_proj.bias)
    x = torch.randn(2, 17, 3, dtype=torch.float64)
    torch.testing.assert_close(mirrored(x.flip(1))[0].flip(1), layer(x)[0])


def test_it_refuses_to_stream_in_one_sentence():
    layer = Bidirectional(3, S5(3, 4), S5(3, 4))
    x = torch.randn(1, 4, 3)
    _, state = layer(x)
    for attempt in (
        lambda: layer(x, state),
        lambda: layer.step(x[:, 0], state),
        lambda: layer.initial_state(1),
    ):
        with pytest.raises(NotCausal, match=SENTENCE) as caught:
            attempt()
        assert isinstance(caught.value, ValueError) and isinstance(caught.value, InputError)
        assert "\n" not in str(caught.value)


def test_a_classifier_reads_both_ways_and_comes_back_from_disk(tmp_path):
    torch.manual_seed(0)
    config = ModelConfig(layer="s5", d_model=6, d_state=4, bidirectional=True)
    model = Classifier(config, 15, ["one", "two"], "dna").eval()
    ids = torch.randint(15, (3, 40))
    logits, state = model(ids)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert len(model.ssm_parameters()) == 2 * 2 * 4
    model.save(tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model")(ids)[0], logits)
    for attempt in (
        lambda: model(ids, state),
        lambda: model.step(ids[:, 0], state),
        lambda: state_bytes(model, 1),
        lambda: State(state).save(tmp_path / "state", model),
    ):
        with pytest.raises(NotCausal, match=SENTENCE):
            attempt()


def test_a_language_model_must_not_read_ahead():
    with pytest.raises(InputError, match="must not see the byte that it predicts"):
        LanguageModel(ModelConfig(bidirectional=True), 15, "dna")
