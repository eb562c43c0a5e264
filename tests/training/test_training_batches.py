"""What a batch holds: targets, weights, labels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssm_seq.data.store import Range, Store, StoreWriter
from ssm_seq.data.windows import windows
from ssm_seq.errors import InputError
from ssm_seq.training.batches import losses, read_batch, training_sampler, validation_batches
from ssm_seq.training.source import new_model

CPU = torch.device("cpu")


def store_of(path, *records):
    """records: (name, text, label, split or ranges)."""
    with StoreWriter(path, "dna") as writer:
        for name, text, label, where in records:
            place = {"split": where} if isinstance(where, str) else {"ranges": where}
            writer.add(name, [text], label=label, **place)
    return Store.open(path)


def test_language_model_batch_by_hand(tmp_path, small):
    store = store_of(tmp_path / "s", ("r", b"ACgtNA", None, "train"))
    config = small("language_model")
    config.data.window = 6
    batch = read_batch(windows(store, "train", 6), np.array([0]), config, CPU)
    assert batch.inputs.tolist() == [[0, 1, 2, 3, 4]]
    assert batch.targets.tolist() == [[1, 2, 3, 4, 0]]
    assert batch.weights.tolist() == [[1, 0.5, 0.5, 0, 1]]  # C, soft-masked g and t, N, A
    assert batch.known.tolist() == [[True, True, True, False, True]]


def test_labelled_windows_stand_behind_the_token_of_their_label(tmp_path, small):
    records = [
        ("r", b"ACgtNA", "b", "train"),
        ("q", b"CCGTAA", "a", "train"),
        ("p", b"TTTTTT", None, "train"),
        ("o", b"CCGTAA", "a", "train"),
    ]
    store, config = store_of(tmp_path / "s", *records), small("language_model")
    config.task.labelled = 0.75
    batch = read_batch(windows(store, "train", 6), np.arange(4), config, CPU)
    assert batch.inputs.tolist() == [[16, 0, 1, 2, 3], [15, 1, 1, 2, 3], [3] * 5, [1, 1, 2, 3, 0]]
    assert batch.targets.tolist() == [[0, 1, 2, 3, 4], [1, 1, 2, 3, 0], [3] * 5, [1, 2, 3, 0, 0]]
    assert batch.weights.tolist() == [[1, 1, 0.5, 0.5, 0], [1] * 5, [1] * 5, [1] * 5]
    assert new_model(config, store).token_of("b") == 16


def test_weights_follow_the_strand(tmp_path, small):
    store = store_of(tmp_path / "s", ("r", b"ACgtNA", None, "train"))
    config = small("language_model")
    both = windows(store, "train", 6, both_strands=True)
    batch = read_batch(both, np.array([1]), config, CPU)  # T N a c G T
    assert batch.inputs.tolist() == [[3, 4, 0, 1, 2]]
    assert batch.weights.tolist() == [[0, 0.5, 0.5, 1, 1]]


def test_classify_batch_has_store_labels(dna, small):
    batch = read_batch(windows(dna, "test", 48), np.array([0, 40]), small(), CPU)
    assert batch.inputs.shape == (2, 48)
    assert [dna.labels[i] for i in batch.targets] == ["AT", "GC"]
    assert batch.weights.tolist() == [1, 1]


def test_classes_are_drawn_alike_whatever_their_size(tmp_path, small):
    store = store_of(tmp_path / "s", ("big", b"A" * 5000, "a", "train"), ("little", b"C" * 60, "b", "train"))
    config = small(batch_size=2000)
    sampler = training_sampler(config, store)
    assert 0.45 < sampler.windows.labels_of(sampler.next()).mean() < 0.55


def test_a_label_missing_in_train(tmp_path, small):
    store = store_of(tmp_path / "s", ("r1", b"A" * 90, "a", "train"), ("r2", b"C" * 90, "b", "test"))
    with pytest.raises(InputError, match="label 'b' of record 'r2' has no window of 48 positions in train"):
        training_sampler(small(), store)


def test_a_label_too_short_in_train(tmp_path, small):
    cut = [Range(0, 20, "train"), Range(20, 90, "test")]
    store = store_of(tmp_path / "s", ("r1", b"A" * 90, "a", "train"), ("r2", b"C" * 90, "b", cut))
    with pytest.raises(InputError, match="label 'b' of record 'r2' has no window of 48 positions in train"):
        training_sampler(small(), store)


def test_a_record_without_label(tmp_path, small):
    store = store_of(tmp_path / "s", ("r1", b"A" * 90, "a", "train"), ("r2", b"C" * 90, None, "valid"))
    with pytest.raises(InputError, match="record 'r2' has no label"):
        training_sampler(small(), store)


def test_a_language_model_needs_no_label(tmp_path, small):
    store = store_of(tmp_path / "s", ("r1", b"A" * 90, None, "train"))
    assert len(training_sampler(small("language_model"), store).next()) == 4


def test_validation_is_always_the_same(dna, small):
    first, again = (list(validation_batches(small(), dna, CPU)) for _ in range(2))
    assert len(first) == 2 and all(len(batch.inputs) == 4 for batch in first)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, again, strict=True))


def test_no_valid_split_no_validation(tmp_path, small):
    store = store_of(tmp_path / "s", ("r1", b"A" * 90, "a", "train"))
    assert list(validation_batches(small(), store, CPU)) == []


@pytest.mark.parametrize("task", ["classify", "language_model"])
def test_losses_are_the_cross_entropy_of_the_targets(dna, small, task):
    config = small(task)
    batch = read_batch(windows(dna, "test", 48), np.array([0, 40, 81]), config, CPU)
    model = new_model(config, dna).eval()
    each, logits = losses(model, batch)
    expected, _ = model(batch.inputs)
    assert each.shape == batch.targets.shape and each.dtype == torch.float32
    flat = F.cross_entropy(expected.flatten(0, -2), batch.targets.flatten(), reduction="none")
    torch.testing.assert_close(each.flatten(), flat, rtol=1e-6, atol=1e-6)
    if task == "classify":
        assert torch.equal(logits, expected)
    else:
        assert logits is None
