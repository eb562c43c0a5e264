"""The script of docs/results that measures prefix reuse: what it compares with is the whole sequence."""

import runpy

import numpy as np
import pytest
import torch

from ssm_seq.config import ModelConfig
from ssm_seq.inference import Edit
from ssm_seq.models import LanguageModel

SCRIPT = runpy.run_path("docs/results/prefix_reuse.py")


def log_likelihood(model, ids):
    ids = torch.from_numpy(ids.astype(np.int64))[None]
    with torch.no_grad():
        return model(ids[:, :-1])[0].log_softmax(-1).gather(-1, ids[:, 1:, None]).sum().item()


@pytest.mark.parametrize("start, end, new", [(40, 41, [3]), (1, 1, [2, 2]), (390, 393, []), (399, 400, [1])])
def test_both_sequences_are_read_to_the_end(start, end, new, monkeypatch):
    monkeypatch.setitem(SCRIPT["side_by_side"].__globals__, "choose_chunk", lambda model: 64)
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(d_model=8, n_layers=2, d_state=4), 15, "dna").double().eval()
    ids, new = np.random.default_rng(0).integers(0, 4, 400, dtype=np.uint8), np.array(new, np.uint8)
    edited = np.concatenate([ids[:start], new, ids[end:]])
    expected = log_likelihood(model, edited) - log_likelihood(model, ids)
    assert SCRIPT["side_by_side"](model, ids, Edit(start, end, new)) == pytest.approx(expected, rel=1e-8)
