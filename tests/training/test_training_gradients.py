import pytest
import torch

from ssm_seq.training import gradients
from ssm_seq.training.gradients import Gradients
from ssm_seq.training.loop import Run
from ssm_seq.training.source import source_of


def trained(config, store, steps=6):
    """The loss of each step, and the weights after the last one."""
    run = Run(config, store, torch.device("cuda"))
    for _ in range(steps):
        run.take_step()
    return run.progress.recent, [parameter.detach().clone() for parameter in run.model.parameters()]


@pytest.mark.gpu
@pytest.mark.parametrize("task", ["classify", "language_model"])
def test_replayed_steps_are_the_steps(task, dna, small, monkeypatch):
    config = small(task)  # with dropout
    losses, weights = trained(config, dna)
    monkeypatch.setattr(gradients, "SMALL", 0)
    expected_losses, expected_weights = trained(config, dna)
    assert losses == pytest.approx(expected_losses, rel=1e-6)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_a_layer_that_waits_for_the_gpu_is_not_recorded(dna, small):
    config = small("classify")
    config.model.layer = "lssl"
    losses, _ = trained(config, dna, steps=3)
    assert len(losses) == 3 and losses[2] < 10


@pytest.mark.gpu
def test_another_shape_is_recorded_anew(dna, small):
    device = torch.device("cuda")
    run = Run(small("language_model"), dna, device)
    run.model.eval()  # without dropout
    at_once, replayed = Gradients(run.model), Gradients(run.model)
    for length in (40, 40, 40, 20, 20, 20, 40):
        config = small("language_model")
        config.data.window = length
        batch = source_of(config, dna, device).next()
        found = []
        for way in (at_once, replayed):
            run.optimizer.zero_grad()
            found.append([way([batch]).clone(), *(p.grad.clone() for p in run.model.parameters())])
            at_once = Gradients(run.model)  # never sees a shape twice
        torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)


@pytest.mark.gpu
def test_a_replayed_step_takes_no_autograd(dna, small):
    run = Run(small("language_model"), dna, torch.device("cuda"))
    for _ in range(3):
        run.take_step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run.gradients([run.source.next()])
    assert not any("autograd" in event.key or "Backward" in event.key for event in profile.key_averages())
