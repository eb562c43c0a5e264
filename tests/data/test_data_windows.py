"""Windows stay inside their ranges, samplers are fair and go on exactly where they stopped."""

import json

import numpy as np
import pytest
from Bio.Seq import Seq
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_seq.data.store import Range, Store, StoreWriter
from ssm_seq.data.windows import WindowSampler, windows
from ssm_seq.errors import InputError


def make_store(path, lengths, ranges=None, labels=None, alphabet="dna"):
    """Records of random letters; `ranges` a list of ranges for each, all train by default."""
    random = np.random.default_rng(0)
    with StoreWriter(path, alphabet) as writer:
        for number, length in enumerate(lengths):
            spans = ranges[number] if ranges else [Range(0, length, "train")]
            letters = random.choice(np.frombuffer(b"ACGTacgtN", np.uint8), length)
            writer.add(f"r{number}", [letters], label=labels and labels[number], ranges=spans)
    return Store.open(path)


@st.composite
def divided(draw):
    """Lengths of records and neighbouring ranges of random splits, some with gaps between them."""
    lengths = draw(st.lists(st.integers(1, 60), min_size=1, max_size=4))
    ranges = []
    for length in lengths:
        cuts = sorted(draw(st.sets(st.integers(0, length), max_size=5)) | {0, length})
        splits = draw(st.lists(st.sampled_from(["train", "valid", "test", None]), min_size=len(cuts) - 1))
        ranges.append([Range(a, b, s) for a, b, s in zip(cuts, cuts[1:], splits, strict=False) if s])
    return lengths, ranges


@settings(max_examples=80, deadline=None)
@given(divided(), st.integers(1, 12), st.integers(1, 12))
def test_no_window_crosses_a_split_and_none_is_missing(tmp_path_factory, lengths_ranges, length, stride):
    lengths, ranges = lengths_ranges
    store = make_store(tmp_path_factory.mktemp("s") / "s", lengths, ranges)
    for split in store.split_names:
        expected = [
            (number, start)
            for number, spans in enumerate(ranges)
            for span in spans
            if span.split == split
            for start in range(span.start, span.end - length + 1, stride)
        ]
        found = windows(store, split, length, stride)
        assert len(found) == len(expected)
        assert list(zip(found.record.tolist(), found.start.tolist(), strict=True)) == expected
        for (number, start), ids in zip(expected, found.read(np.arange(len(found))), strict=True):
            assert (ids == store.ids(number, start, start + length)).all()
            owners = {
                span.split for span in ranges[number] if span.start < start + length and span.end > start
            }
            assert owners == {split}


def test_without_a_stride_windows_lie_side_by_side(tmp_path):
    store = make_store(tmp_path / "s", [10, 3, 7])
    found = windows(store, "train", 4)
    assert found.record.tolist() == [0, 0, 2] and found.start.tolist() == [0, 4, 0]
    assert len(windows(store, "train", 11)) == 0


def test_labels_are_numbered_by_name(tmp_path):
    store = make_store(tmp_path / "s", [4, 4, 4], labels=["b", "a", None])
    assert store.labels == ["a", "b"]
    found = windows(store, "train", 2)
    assert found.labels.tolist() == [1, 1, 0, 0, -1, -1]
    assert found.labels_of(np.array([5, 0])).tolist() == [-1, 1]


def test_the_other_strand_is_the_reverse_complement_with_its_weights(tmp_path):
    store = make_store(tmp_path / "s", [30, 20])
    found = windows(store, "train", 7, 1, both_strands=True)
    half = len(found) // 2
    assert half == 24 + 14
    numbers = np.arange(half)
    there, back = found.read(numbers), found.read(numbers + half)
    for one, other in zip(there, back, strict=True):
        text = store.alphabet.decode(one).tobytes().decode()
        assert store.alphabet.decode(other).tobytes().decode() == str(Seq(text).reverse_complement())
    weights = found.weights(np.arange(2 * half), 0.25)
    assert weights.dtype == np.float32 and set(np.unique(weights)) == {np.float32(0.25), np.float32(1)}
    assert (weights[half:] == weights[:half, ::-1]).all()
    first = store.bytes(store.records[0])[:7].tobytes().decode()
    assert weights[0].tolist() == [0.25 if letter.islower() else 1.0 for letter in first]
    assert (found.labels[:half] == found.labels[half:]).all()
    mixed = np.array([half + 3, 3, half])
    assert (found.read(mixed) == np.stack([back[3], there[3], back[0]])).all()


def test_subsamples_are_seeded_distinct_and_whole_when_small(tmp_path):
    found = windows(make_store(tmp_path / "s", [1000]), "train", 10)
    assert found.sample(200, 0).tolist() == list(range(100))
    one, two = found.sample(30, 1), found.sample(30, 1)
    assert one.tolist() == two.tolist() == sorted(set(one.tolist())) and len(one) == 30
    assert one.tolist() != found.sample(30, 2).tolist()


def test_mistakes_are_named(tmp_path):
    store = make_store(tmp_path / "s", [10])
    with pytest.raises(InputError, match=r"no 'test' split.*it has: train"):
        windows(store, "test", 4)
    with pytest.raises(InputError, match="20 positions long"):
        WindowSampler(windows(store, "train", 20), 2, 0)
    sound = make_store(tmp_path / "a", [10], alphabet="mu_law")
    with pytest.raises(InputError, match="no reverse complement"):
        windows(sound, "train", 4, both_strands=True)


@pytest.mark.parametrize("balanced", [False, True])
def test_draws_are_fair(tmp_path, balanced):
    """Every window alike, or every label alike and then every window of it (chi-square, 4 sigma)."""
    store = make_store(tmp_path / "s", [4, 12, 7, 30, 5], labels=["b", "a", "b", "a", "c"])
    found = windows(store, "train", 4, 1)
    assert len(found) == 1 + 9 + 4 + 27 + 2
    sampler = WindowSampler(found, 1000, seed=1, balanced=balanced)
    draws = np.concatenate([sampler.next() for _ in range(40)])
    counts = np.bincount(draws, minlength=len(found))
    if balanced:
        sizes = np.bincount(found.labels)
        expected = len(draws) / 3 / sizes[found.labels]
    else:
        expected = np.full(len(found), len(draws) / len(found))
    freedom = len(found) - 1
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 4 * (2 * freedom) ** 0.5


def test_both_strands_are_drawn_alike(tmp_path):
    found = windows(make_store(tmp_path / "s", [50]), "train", 4, 1, both_strands=True)
    draws = WindowSampler(found, 10_000, seed=0).next()
    assert draws.max() < len(found) and abs((draws >= 47).mean() - 0.5) < 0.02


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), before=st.integers(0, 5), balanced=st.booleans())
def test_a_sampler_goes_on_exactly(tmp_path_factory, seed, before, balanced):
    store = make_store(tmp_path_factory.mktemp("s") / "s", [40, 30], labels=["a", "b"])
    found = windows(store, "train", 8, 1, both_strands=True)
    sampler = WindowSampler(found, 3, seed, balanced)
    for _ in range(before):
        sampler.next()
    state = json.loads(json.dumps(sampler.state_dict()))
    rest = [sampler.next().tolist() for _ in range(5)]
    other = WindowSampler(found, 3, seed + 1, balanced)
    other.load_state_dict(state)
    assert [other.next().tolist() for _ in range(5)] == rest
    again = WindowSampler(found, 3, seed, balanced)
    assert [again.next().tolist() for _ in range(before + 5)][before:] == rest
