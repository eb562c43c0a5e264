"""A function as one CUDA graph: the same results, and nothing of one graph in the way of the next."""

import gc
import weakref

import pytest
import torch

from ssm_seq.config import ModelConfig
from ssm_seq.inference.replay import Replay
from ssm_seq.inference.score_values import ChunkReader
from ssm_seq.models import LanguageModel

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def in_lists(x, y):
    """Many containers, so that garbage would be collected meanwhile."""
    return [torch.stack([[x * k, y][number % 2] for number in range(50)]).sum(0) for k in range(20)]


def given(device, seed=0):
    torch.manual_seed(seed)
    return torch.randn(3, 4, device=device), torch.randn(3, 4, device=device)


@pytest.mark.parametrize("device", DEVICES)
def test_a_replay_gives_new_tensors_of_the_same_bits(device):
    replay = Replay(in_lists, *given(device))
    for seed in (1, 2):
        first, second = replay(*given(device, seed)), replay(*given(device, seed))
        for one, other, expected in zip(first, second, in_lists(*given(device, seed)), strict=True):
            assert torch.equal(one, expected) and torch.equal(other, expected)
            assert one.data_ptr() != other.data_ptr()


@pytest.mark.gpu
def test_garbage_does_not_end_a_recording():
    garbage = [Replay(in_lists, *given("cuda"))]
    garbage.append(garbage)
    del garbage
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        replay = Replay(in_lists, *given("cuda"))
    finally:
        gc.set_threshold(*thresholds)
    assert gc.isenabled()
    assert torch.equal(replay(*given("cuda", 1))[3], in_lists(*given("cuda", 1))[3])


@pytest.mark.parametrize("device", DEVICES)
@torch.inference_mode()
def test_what_a_reader_recorded_goes_with_it(device):
    model = LanguageModel(ModelConfig(d_model=8, n_layers=1, d_state=4), 15, "dna").to(device).eval()
    reader = ChunkReader(model, [], half=False, many=True)
    ids, state = torch.zeros(1, 20, dtype=torch.int64, device=device), None
    for _ in range(3):
        _, state = reader(ids, state)
    recorded = weakref.ref(reader._replay)
    gc.disable()
    try:
        del reader
        assert recorded() is None
    finally:
        gc.enable()
