"""Training steps and forward passes of whole language models on a GPU, as the training loop runs them."""

from collections.abc import Callable
from dataclasses import replace

import torch

from ssm_seq.benchmark.cases import ModelCase
from ssm_seq.benchmark.floors import is_h100
from ssm_seq.benchmark.measured import Measured, Peer
from ssm_seq.benchmark.timing import allocated, milliseconds, peak_gib
from ssm_seq.config import ModelConfig, OptimConfig
from ssm_seq.data.alphabet import TOKENS
from ssm_seq.models import LanguageModel
from ssm_seq.training.batches import Batch
from ssm_seq.training.gradients import Gradients
from ssm_seq.training.optimizer import new_optimizer


def plan(case: ModelCase, device: torch.device) -> Measured:
    """The figure with its target and its peer, both of an H100, and without a value."""
    if not is_h100(device):
        return Measured(case.name)
    peer = Peer("mamba-ssm", case.peer, case.peer_peak, recorded=True, note=case.peer_note)
    return Measured(case.name, target=case.target, peak_target=case.target_peak, peer=peer)


def measure_model(case: ModelCase, device: torch.device) -> Measured:
    """Forward, loss, backward and AdamW, or the logits alone; bfloat16 autocast on a GPU.

    Raises:
        Exception: whatever the model raises, torch.cuda.OutOfMemoryError among it.
    """
    torch.manual_seed(0)
    before = allocated(device)
    config = ModelConfig(d_model=case.d_model, n_layers=case.layers, d_state=case.d_state)
    model = LanguageModel(config, case.vocab, TOKENS).to(device)
    ids = torch.randint(case.vocab, (case.batch, case.length + 1), device=device)
    run = _training_step(model, ids) if case.training else _forward(model, ids[:, :-1])
    run()  # what is compiled is compiled here, and the optimiser's state made
    peak = peak_gib(run, device, before)
    times = milliseconds(run, device)
    return replace(plan(case, device), value=times.median, low=times.low, high=times.high, peak=peak)


def _training_step(model: LanguageModel, ids: torch.Tensor) -> Callable[[], None]:
    optimizer, gradients = new_optimizer(model, OptimConfig()), Gradients(model)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    everything = torch.ones_like(targets, dtype=torch.bool)
    batch = Batch(inputs, targets, everything.float(), everything)

    def step() -> None:
        optimizer.zero_grad()
        gradients([batch])
        optimizer.step()

    return step


def _forward(model: LanguageModel, ids: torch.Tensor) -> Callable[[], None]:
    def forward() -> None:
        with torch.no_grad(), torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.is_cuda):
            model(ids)

    return forward
