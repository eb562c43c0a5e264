"""Models by their names, and how the vectors of tokens start: unrelated for letters, smooth for waveforms."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ssm_seq.config import ModelConfig, compose
from ssm_seq.models import Classifier, LanguageModel
from ssm_seq.ssm import s4d_legs

CONFIG = Path(__file__).parents[2] / "config"


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIG / "model").glob("*.yaml")))
def test_every_named_model_exists_gated_and_both_ways(name):
    overrides = [f"model={name}", "model.bidirectional=true"]
    gates = [] if name in ("mamba", "h3") else ["model.gated=true"]
    config = compose(overrides + gates, CONFIG).model
    model = Classifier(config, 15, ["a", "b"], "dna")
    logits, _ = model(torch.randint(15, (2, 30)))
    assert logits.shape == (2, 2) and config.layer == name


def test_s4d_starts_from_what_the_config_says():
    layer = LanguageModel(ModelConfig(layer="s4d", init="legs"), 15, "dna").backbone.blocks[0].layer
    torch.testing.assert_close(layer.A_imag[0], s4d_legs(16)[0].imag.float())


def similarity(model: LanguageModel) -> torch.Tensor:
    vectors = model.backbone.embedding.weight.detach()
    return F.cosine_similarity(vectors[:, None], vectors[None], dim=-1)


def test_neighbouring_levels_start_alike_and_distant_ones_apart():
    alike = similarity(LanguageModel(ModelConfig(), 256, "mu_law", sample_rate=8000))
    assert alike.diagonal(1).min() > 0.8
    assert alike.diagonal(128).abs().max() < 0.5
    assert (alike - torch.eye(256)).max() < 0.9999  # no two levels are the same to the model


def test_letters_start_unrelated():
    torch.manual_seed(0)
    alike = similarity(LanguageModel(ModelConfig(), 15, "dna"))
    assert (alike - torch.eye(15)).abs().max() < 0.7
