"""Edits scored from cached states: the score of the whole edited sequence, for few positions read."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssm_seq.config import ModelConfig
from ssm_seq.inference.prefix import Edit, Prefix, default_spacing
from ssm_seq.models import LanguageModel

LENGTH, SPACING = 700, 32
LAYERS = pytest.mark.parametrize("layer", ["mamba", "s4", "s4d"])
NOTHING = np.zeros(0, np.uint8)


def make(layer="mamba"):
    """A model that is no longer indifferent, and forgets within some hundred positions."""
    torch.manual_seed(0)
    config = ModelConfig(layer=layer, d_model=12, n_layers=2, d_state=4, dt_min=0.1, dt_max=0.5, dropout=0.1)
    model = LanguageModel(config, 15, "dna")
    with torch.no_grad():
        model.head.weight.mul_(4)
        for block in model.backbone.blocks:
            block.layer.out_proj.weight.mul_(2)
    return model


def sequence(length=LENGTH):
    return np.random.default_rng(0).integers(0, 4, length, dtype=np.uint8)


def changed(ids, start, end, new):
    """The edit, and the whole sequence after it."""
    new = np.array(new, np.uint8)
    return Edit(start, end, new), np.concatenate([ids[:start], new, ids[end:]])


@torch.no_grad()
def log_likelihood(model, ids):
    model.eval()
    logits, _ = model(torch.from_numpy(ids.astype(np.int64))[None])
    targets = torch.from_numpy(ids[1:].astype(np.int64))
    nats = F.cross_entropy(logits[0, :-1].double(), targets, reduction="sum")
    return -nats.item() - math.log(15)


# At both ends, beside, on and across checkpoints, longer than a block, several to a checkpoint.
PLACES = [(0, 1), (0, 0), (0, 40), (1, 2), (1, 1), (31, 32), (32, 33), (33, 33), (32, 32), (40, 41), (45, 52),
          (60, 70), (300, 300), (301, 303), (350, 420), (416, 448), (671, 672), (672, 672), (690, 695),
          (698, 700), (699, 700), (700, 700), (0, 700)]  # fmt: skip
ALTERNATIVES = [[3], [1, 2, 0], [], [0] * 70]
CASES = [(*place, new) for place in PLACES for new in ALTERNATIVES if new or place[0] < place[1]]


@LAYERS
def test_exact_scores_are_those_of_the_whole_sequence(layer):
    model, ids = make(layer).double(), sequence()
    prefix = Prefix(model, ids, SPACING, batch=3)
    cases = [case for case in CASES if case != (0, 700, [])]
    edits, wholes = zip(*(changed(ids, *case) for case in cases), strict=True)
    reference = log_likelihood(model, ids)
    assert prefix.nats == pytest.approx(reference, rel=1e-10)
    for case, whole, score in zip(cases, wholes, prefix.score(edits, tolerance=0), strict=True):
        assert score.nats == pytest.approx(log_likelihood(model, whole) - reference, rel=1e-5, abs=1e-9), case
        assert score.bound == 0


@LAYERS
@pytest.mark.parametrize("batch", [1, 5])
def test_bounded_scores_are_within_the_tolerance_and_read_less(layer, batch):
    model, ids = make(layer), sequence(6000)
    prefix = Prefix(model, ids, SPACING, batch)
    reference, random = log_likelihood(model, ids), np.random.default_rng(1)
    edits, wholes = [], []
    for kind in range(12):
        start = int(random.integers(0, 4000))
        end, new = start + (1, 0, 3)[kind % 3], ([(ids[start] + 1) % 4], [2, 2, 0, 1], [])[kind % 3]
        edit, whole = changed(ids, start, end, new)
        edits.append(edit)
        wholes.append(whole)
    scores = prefix.score(edits)
    for edit, whole, score in zip(edits, wholes, scores, strict=True):
        expected = log_likelihood(model.double(), whole) - log_likelihood(model, ids)
        model.float()
        assert abs(score.nats - expected) <= 1e-3 * max(abs(expected), 0.1), edit
    assert reference == pytest.approx(prefix.nats, rel=1e-5)
    assert np.mean([score.computed for score in scores]) < 6000 / 8


def test_what_was_read_is_counted_and_is_what_the_model_read(monkeypatch):
    model, ids, read = make(), sequence(), []
    backbone = model.backbone.forward
    monkeypatch.setattr(
        model.backbone, "forward", lambda ids, state: read.append(ids.numel()) or backbone(ids, state)
    )
    prefix = Prefix(model, ids, SPACING)
    assert prefix.computed == sum(read) == LENGTH
    assert (
        Prefix(model, ids, SPACING, batch=3).computed == LENGTH + 2 * 8 * SPACING
    )  # where the third part begins
    edits = [changed(ids, *case)[0] for case in CASES[4:20]]
    for tolerance in (0, 1e-3):
        read.clear()
        assert sum(score.computed for score in prefix.score(edits, tolerance)) == sum(read) > 0


@pytest.mark.gpu
@LAYERS
def test_edits_side_by_side_on_a_gpu(layer):
    model, ids = make(layer), sequence()
    edits, wholes = zip(*(changed(ids, *case) for case in CASES[2:40]), strict=True)
    scores = Prefix(model.cuda(), ids, SPACING).score(edits)
    model.cpu().double()
    reference = log_likelihood(model, ids)
    for edit, whole, score in zip(edits, wholes, scores, strict=True):
        expected = log_likelihood(model, whole) - reference
        assert abs(score.nats - expected) <= 1e-3 * max(abs(expected), 0.1), edit


@pytest.mark.parametrize("batch", [1, 3, 40])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 641, 700, 704])
def test_parts_of_a_reference_make_the_whole(length, batch):
    model, ids = make().double(), sequence(length)
    prefix = Prefix(model, ids, SPACING, batch)
    reference = log_likelihood(model, ids)
    assert prefix.nats == pytest.approx(reference, rel=1e-10)
    edits, wholes = zip(*(changed(ids, place, place, [2]) for place in {0, length // 2, length}), strict=True)
    for whole, score in zip(wholes, prefix.score(edits, tolerance=0), strict=True):
        assert score.nats == pytest.approx(log_likelihood(model, whole) - reference, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_state_that_came_back_to_the_last_bit_ends_an_exact_score(device):
    model, ids = make().to(device), sequence(4000)
    with torch.no_grad():  # steps this long forget everything within some positions
        for block in model.backbone.blocks:
            block.layer.dt_proj.bias.fill_(6.0)
    edit, whole = changed(ids, 100, 101, [(ids[100] + 1) % 4])
    (score,) = Prefix(model, ids, SPACING).score([edit], tolerance=0)
    assert score.computed <= 4 * SPACING and score.bound == 0
    model.cpu().double()
    expected = log_likelihood(model, whole) - log_likelihood(model, ids)
    assert score.nats == pytest.approx(expected, rel=1e-5)


def test_a_model_that_does_not_forget_is_read_to_the_end():
    model, ids = make().double(), sequence()
    with torch.no_grad():
        for block in model.backbone.blocks:
            block.layer.A_log.fill_(-20.0)
    edit, whole = changed(ids, 10, 11, [(ids[10] + 1) % 4])
    (score,) = Prefix(model, ids, SPACING).score([edit], tolerance=1e-6)
    assert score.computed == LENGTH
    assert score.nats == pytest.approx(log_likelihood(model, whole) - log_likelihood(model, ids), rel=1e-6)


def test_side_by_side_changes_nothing_and_the_model_keeps_its_mode():
    model, ids = make().double().train(), sequence()
    edits = [changed(ids, *case)[0] for case in CASES[3:23]]
    alone, together = (Prefix(model, ids, SPACING, batch).score(edits, 0) for batch in (1, 50))
    assert [one.nats for one in alone] == pytest.approx([one.nats for one in together], rel=1e-9)
    assert model.training


@pytest.mark.parametrize(
    "length, spacing", [(1, 1024), (2**20, 1024), (2**20 + 1, 2048), (63_025_520, 65536)]
)
def test_spacing_keeps_the_states_few(length, spacing):
    assert default_spacing(length) == spacing


@pytest.mark.parametrize(
    "make_call, expected",
    [
        (lambda prefix, model: Prefix(model, NOTHING), "length >= 1"),
        (lambda prefix, model: Prefix(model, sequence(), 0), "spacing=0"),
        (lambda prefix, model: prefix.score([Edit(5, 3, NOTHING)]), "5..3"),
        (lambda prefix, model: prefix.score([Edit(0, LENGTH + 1, NOTHING)]), "<= 700"),
        (lambda prefix, model: prefix.score([Edit(0, LENGTH, NOTHING)]), "nothing is left"),
        (lambda prefix, model: prefix.score([], tolerance=-1), "tolerance=-1"),
    ],
)
def test_bad_arguments_are_named(make_call, expected):
    model = make()
    with pytest.raises(ValueError, match=expected):
        make_call(Prefix(model, sequence(), SPACING), model)
