"""Groups, schedule, and what a step is made of."""

import math

import pytest
import torch
from torch import nn

from ssm_seq.config import ModelConfig, OptimConfig, compose
from ssm_seq.errors import InputError
from ssm_seq.models import Classifier, LanguageModel
from ssm_seq.training.batches import losses
from ssm_seq.training.loop import Run, train
from ssm_seq.training.optimizer import new_optimizer, parameter_groups, schedule


@pytest.mark.parametrize("layer", ["mamba", "s4", "s4d", "s5", "dss", "lssl", "ema", "h3"])
@pytest.mark.parametrize("task", ["classify", "language_model"])
def test_groups_hold_every_parameter_once(layer, task):
    config = ModelConfig(layer=layer, d_model=8, n_layers=2, d_state=4)
    model = (
        Classifier(config, 15, ["a", "b"], "dna") if task == "classify" else LanguageModel(config, 15, "dna")
    )
    groups = parameter_groups(model, OptimConfig(lr=1.0, ssm_lr=0.25, weight_decay=0.1))
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in model.parameters())

    by_name = {group["name"]: group for group in groups}
    ssm = {id(parameter) for parameter in by_name["ssm"]["params"]}
    assert ssm == {id(parameter) for parameter in model.ssm_parameters()}
    assert [
        (name, by_name[name]["lr"], by_name[name]["weight_decay"]) for name in ("decayed", "plain", "ssm")
    ] == [
        ("decayed", 1.0, 0.1),
        ("plain", 1.0, 0.0),
        ("ssm", 0.25, 0.0),
    ]
    plain = {id(parameter) for parameter in by_name["plain"]["params"]}
    assert id(model.backbone.embedding.weight) in plain
    assert id(model.backbone.norm.weight) in plain
    assert all(parameter.ndim >= 2 for parameter in by_name["decayed"]["params"])


@pytest.mark.parametrize("eps, moved", [(1e-8, 0.1), (1e-20, 1.0)])
def test_eps_decides_what_counts_as_a_gradient(eps, moved):
    model = LanguageModel(ModelConfig(d_model=8, n_layers=1), 5, "dna")
    bias = model.backbone.blocks[0].layer.dt_proj.bias
    before, bias.grad = bias.detach().clone(), torch.full_like(bias, 1e-9)
    new_optimizer(model, OptimConfig(ssm_lr=0.5, eps=eps)).step()
    assert (before - bias).mean().item() == pytest.approx(0.5 * moved, rel=0.15)


def test_parameters_may_have_rates_of_their_own():
    config = ModelConfig(layer="s4", d_model=8, n_layers=2, d_state=4)
    model = LanguageModel(config, 15, "dna")
    optim = OptimConfig(lr=1.0, ssm_lr=0.25, ssm_lrs={"log_dt": 0.5, "A_imag": 0.0}, weight_decay=0.1)
    groups = {group["name"]: group for group in parameter_groups(model, optim)}
    assert compose(["+optim.ssm_lrs.log_dt=0.5"]).optim.ssm_lrs == {"log_dt": 0.5}
    layers = [block.layer for block in model.backbone.blocks]
    for name, rate in optim.ssm_lrs.items():
        group = groups[f"ssm.{name}"]
        assert [id(p) for p in group["params"]] == [id(getattr(layer, name)) for layer in layers]
        assert (group["lr"], group["peak_lr"], group["weight_decay"]) == (rate, rate, 0.0)
    assert {id(p) for p in groups["ssm"]["params"]} == {
        id(p) for layer in layers for p in (layer.log_A_real, layer.P, layer.B)
    }
    with pytest.raises(InputError, match=r"ssm_lrs\.dt: .*; known: A_imag, B, P, log_A_real, log_dt"):
        parameter_groups(model, OptimConfig(ssm_lrs={"dt": 0.1}))
    with pytest.raises(InputError, match=r"ssm_lrs\.C: the model has no state-space parameter of this name"):
        parameter_groups(model, OptimConfig(ssm_lrs={"C": 0.1}))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_parameter_moves_at_its_rate(dna, small, device):
    """The first step of Adam is as long as the learning rate."""
    config = small("language_model", warmup_steps=0, lr=1e-3, ssm_lr=1e-4, weight_decay=0.0, clip=math.inf)
    config.model = ModelConfig(layer="s4d", d_model=8, n_layers=1, d_state=4)
    config.optim.ssm_lrs = {"log_dt": 1e-5, "A_imag": 0.0}
    run = Run(config, dna, torch.device(device))
    layer = run.model.backbone.blocks[0].layer
    assert run.optimizer.defaults["fused"] == (device == "cuda")
    names = ("C", "log_A_real", "log_dt", "A_imag")
    before = {name: getattr(layer, name).detach().clone() for name in names}
    run.take_step()
    moved = [(getattr(layer, name) - before[name]).abs().max().item() for name in names]
    assert moved == pytest.approx([1e-3, 1e-4, 1e-5, 0.0], rel=0.02)


def test_a_rate_below_zero_is_refused(dna, small, tmp_path):
    config = small("language_model")
    config.optim.ssm_lrs = {"A_log": -1e-3}
    with pytest.raises(InputError, match=r"optim\.ssm_lrs\.A_log=-0\.001: expected 0 or more"):
        train(config, dna, tmp_path / "run")


def test_tied_and_frozen_parameters():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5)
            self.frozen = nn.Linear(3, 3).requires_grad_(False)
            self.head.weight = self.embedding.weight

        def ssm_parameters(self):
            return []

    model = Tied()
    groups = parameter_groups(model, OptimConfig())
    assert [(group["name"], len(group["params"])) for group in groups] == [("plain", 2)]


def test_schedule_values():
    optim = OptimConfig(warmup_steps=4, steps=15, min_lr_ratio=0.1)
    assert [schedule(step, optim) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule(4, optim) == 1.0
    assert schedule(9, optim) == pytest.approx(0.55)  # half-way from 4 to 14
    assert schedule(14, optim) == pytest.approx(0.1)
    falling = [schedule(step, optim) for step in range(4, 15)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_schedule_of_runs_shorter_than_their_warm_up(steps):
    optim = OptimConfig(warmup_steps=3, steps=steps)
    assert all(0 < schedule(step, optim) <= 1 for step in range(steps))


def test_accumulated_batches_count_as_one(dna, small):
    """Two batches of 4 give the gradient of the 8 windows together, though their weights differ."""
    config = small("language_model", accumulate=2)
    config.model.dropout = 0.0
    run = Run(config, dna, torch.device("cpu"))
    reference = Run(config, dna, torch.device("cpu"))
    batches = [reference.source.next() for _ in "ab"]
    whole = type(batches[0])(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    assert batches[0].weights.sum() != batches[1].weights.sum()
    loss = (losses(reference.model, whole)[0] * whole.weights).sum() / whole.weights.sum()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(reference.model.parameters(), math.inf)

    assert run.take_step() == pytest.approx(float(norm), rel=1e-4)
    assert run.progress.recent == [pytest.approx(loss.item(), rel=1e-5)]
    assert run.progress.tokens == 8 * 47


def test_clipping_bounds_the_step(dna, small):
    config = small(clip=1e-3)
    run = Run(config, dna, torch.device("cpu"))
    seen = []
    run.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append(
            math.sqrt(sum(float(p.grad.norm()) ** 2 for g in optimizer.param_groups for p in g["params"]))
        )
    )
    assert run.take_step() > 1e-3  # the norm that is reported is the one before clipping
    assert seen[0] == pytest.approx(1e-3, rel=1e-3)
