"""How the vectors of tokens start: unrelated for letters, smooth for the levels of a waveform."""

import torch
import torch.nn.functional as F

from ssm_seq.config import ModelConfig
from ssm_seq.models import LanguageModel


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
