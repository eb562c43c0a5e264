"""The states of models of every layer, as inference keeps them: size known before, saved, loaded."""

import pytest
import torch

from ssm_seq.config import ModelConfig
from ssm_seq.inference import State
from ssm_seq.inference.state import state_bytes
from ssm_seq.models import LanguageModel

LAYERS = ["s4", "s4d", "s5", "dss", "lssl", "ema"]


@pytest.mark.parametrize(
    ("layer", "gated"), [(layer, gated) for layer in LAYERS for gated in (False, True)] + [("h3", False)]
)
def test_a_saved_state_goes_on(tmp_path, layer, gated):
    torch.manual_seed(0)
    config = ModelConfig(layer=layer, d_model=6, n_layers=2, d_state=4, gated=gated)
    model = LanguageModel(config, 15, "dna").eval()
    ids = torch.randint(15, (3, 50))
    with torch.no_grad():
        whole, _ = model(ids)
        _, parts = model(ids[:, :20])
        state = State(parts)
        assert state.bytes == state_bytes(model, 3)
        state.save(tmp_path / "state", model)
        logits, _ = model(ids[:, 20:], State.load(tmp_path / "state", model).parts)
    torch.testing.assert_close(logits, whole[:, 20:], rtol=1e-4, atol=1e-5)
