"""Many records side by side: the numbers of each alone, in the store's order; a run that ended goes on."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from ssm_seq.config import ModelConfig
from ssm_seq.data.store import Store, StoreWriter
from ssm_seq.errors import InputError
from ssm_seq.inference import score_batch, score_record
from ssm_seq.inference.score_batch import Row, batches, fits_a_batch, score_rows
from ssm_seq.inference.score_finished import Finished
from ssm_seq.inference.score_store import Request, can_go_on, score_store
from ssm_seq.inference.score_values import EMBEDDING, ENTROPY, LOG_LIKELIHOOD, PROBABILITY
from ssm_seq.models import Classifier, LanguageModel

LENGTHS = [1, 2, 7, 7, 40, 41, 90, 3, 64, 1]


def make(layer="mamba", kind="language_model", **more):
    torch.manual_seed(0)
    config = ModelConfig(layer=layer, d_model=6, n_layers=2, d_state=4, **more)
    if kind == "classifier":
        return Classifier(config, 15, ["one", "two", "three"], "dna").eval()
    return LanguageModel(config, 15, "dna").eval()


def make_rows(lengths=LENGTHS):
    random, rows = np.random.default_rng(0), []
    for number, length in enumerate(lengths):
        ids = random.integers(0, 15, length, dtype=np.uint8)
        rows.append(Row(number, f"r{number}", lambda a, b, ids=ids: ids[a:b], length))
    return rows


def read_alone(model, row, wanted):
    values = {}
    score = score_record(
        model, row.read, row.length, 100, wanted, lambda _, part: values.update(part), pooled=True
    )
    return score, values


@pytest.mark.parametrize("kind", ["language_model", "classifier"])
@pytest.mark.parametrize("layer", ["mamba", "s4", "s4d"])
@pytest.mark.parametrize("positions", [200, 10_000])
def test_side_by_side_or_alone(layer, kind, positions):
    model, rows, found, scores = make(layer, kind), make_rows(), {}, {}
    wanted = [EMBEDDING, *([PROBABILITY] if kind == "classifier" else [LOG_LIKELIHOOD, ENTROPY])]
    for row, score in score_rows(
        model, rows, positions, wanted, lambda row, values: found.__setitem__(row.number, values), pooled=True
    ):
        scores[row.number] = score
    assert sorted(scores) == sorted(found) == list(range(len(rows)))
    for row in rows:
        alone, values = read_alone(model, row, wanted)
        for name in wanted:
            np.testing.assert_allclose(found[row.number][name], values[name], atol=1e-5, rtol=0)
        score = scores[row.number]
        np.testing.assert_allclose(score.pooled, alone.pooled, atol=1e-5)
        assert (score.length, score.classes) == (alone.length, alone.classes)
        if kind == "classifier":
            ends = (score.track[-1]["probabilities"], alone.track[-1]["probabilities"])
            np.testing.assert_allclose(*ends, atol=1e-5)
        else:
            assert score.total_bits == pytest.approx(alone.total_bits, abs=1e-4)
        assert asdict(score).keys() == asdict(alone).keys()


def test_batches_hold_every_row_and_little_padding(monkeypatch):
    model, lengths = make(), np.random.default_rng(1).integers(1, 400, 500).tolist()
    rows = make_rows(lengths)
    found = list(batches(model, rows, 4000))
    assert sorted(row.number for batch in found for row in batch) == list(range(500))
    sizes = [len(batch) * max(row.length for row in batch) for batch in found]
    assert max(sizes) <= 4000 and sum(sizes) < 1.1 * sum(lengths)
    monkeypatch.setattr(score_batch, "BUDGET", 12 * score_batch.state_bytes(model, 1))
    assert max(map(len, batches(model, rows, 4000))) == 3  # a quarter of it for states


def test_what_is_read_alone():
    assert fits_a_batch(make(), 50, 100) and not fits_a_batch(make(), 51, 100)
    assert not fits_a_batch(make(kind="classifier", bidirectional=True), 5, 100)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    model = make()
    expected = {row.number: score.total_bits for row, score in score_rows(model, make_rows(), 1000)}
    forward = model.backbone.forward

    def small_memory(ids, state):
        if len(ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(ids, state)

    monkeypatch.setattr(model.backbone, "forward", small_memory)
    with pytest.warns(UserWarning, match="10 records at once don't fit memory; going on with 5"):
        found = {row.number: score.total_bits for row, score in score_rows(model, make_rows(), 1000)}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    "row, expected",
    [
        (Row(0, "bad", lambda a, b: np.zeros(3, np.uint8), 5), "record 'bad': the record ends after 3 of 5"),
        (Row(0, "bad", lambda a, b: np.zeros(0, np.uint8), 0), "record 'bad': the record is empty"),
    ],
)
def test_a_bad_record_is_named(row, expected):
    with pytest.raises(InputError, match=expected):
        list(score_rows(make(), [*make_rows(), row], 1000))


def test_results_that_are_no_numbers_are_named():
    model = make()
    with torch.no_grad():
        model.head.weight.fill_(3e38)
        model.backbone.norm.weight[0] = 3e38
    with pytest.raises(InputError, match="record 'r2': positions 1 to 7: the model gives NaN"):
        list(score_rows(model, make_rows()[2:3], 1000))


@pytest.fixture
def store(tmp_path):
    random = np.random.default_rng(0)
    with StoreWriter(tmp_path / "reads", "dna") as writer:
        for number in range(300):
            size = 3000 if number == 100 else int(random.integers(1, 60))
            writer.add(f"read{number}", [random.choice(np.frombuffer(b"ACGT", np.uint8), size)])
    return Store.open(tmp_path / "reads")


@pytest.mark.parametrize("strand", ["forward", "both"])
def test_a_store_of_reads_goes_on_where_it_ended(store, tmp_path, monkeypatch, strand):
    model, request = make(), Request(chunk=500, strand=strand, outputs=("bedgraph", "pooled"))
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    whole = score_store(model, store, range(300), request, tmp_path / "work", tmp_path / "one")
    assert [each["record"] for each in whole] == [f"read{number}" for number in range(300)]
    assert [each["length"] for each in whole] == [record.length for record in store.records]

    add, left, read = Finished.add, [120], []

    def add_some(self, number, score):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        add(self, number, score)

    work = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(Finished, "add", add_some)
        with pytest.raises(KeyboardInterrupt):
            score_store(model, store, range(300), request, work)
    assert can_go_on(work)
    with (work / "forward.scores").open("a") as file:
        file.write('[299, {"length": 7')  # the machine stopped in the middle of a line
    monkeypatch.setattr(Finished, "add", lambda self, *score: read.append(score[0]) or add(self, *score))
    again = score_store(model, store, range(300), request, work, tmp_path / "two")
    assert len(read) == 300 * (1 + (strand == "both")) - 120
    for one, other in zip(whole, again, strict=True):
        assert one["total_bits"] == other["total_bits"] and one["record"] == other["record"]
    for name in ("log_likelihood.bedGraph", "entropy.bedGraph", "pooled.npy"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_finished_scores_are_lines_of_a_file(tmp_path):
    [(row, score)] = score_rows(make(), make_rows()[4:5], 100)
    with Finished(tmp_path / "scores") as finished:
        assert row.number not in finished
        finished.add(row.number, score)
    assert json.loads((tmp_path / "scores").read_text())[0] == row.number
    with Finished(tmp_path / "scores") as finished:
        assert finished[row.number] == score
