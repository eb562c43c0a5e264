"""Splits keep groups together, show every label in training, and don't depend on the order of rows."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_seq.config import SplitConfig
from ssm_seq.data.splits import divide
from ssm_seq.data.store import Range, Record
from ssm_seq.errors import InputError


def record(name, label=None, group=None, length=100, ranges=()):
    return Record(name, 0, length, label, group, ranges, "sheet.tsv")


def drawn(by, **fractions):
    return SplitConfig(by=by, fractions=fractions or {"train": 0.6, "valid": 0.2, "test": 0.2})


def split_of(records):
    return {item.name: span.split for item in records for span in item.ranges}


@settings(max_examples=60, deadline=None)
@given(
    members=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30)), min_size=30, max_size=60),
    by=st.sampled_from(["record", "group"]),
    seed=st.integers(0, 5),
)
def test_groups_stay_together_labels_are_trained_on_and_order_is_nothing(members, by, seed):
    records = [record(f"r{n}", label, f"{label}{group}") for n, (label, group) in enumerate(members)]
    config = drawn(by)
    config.seed = seed
    try:
        divided = divide(records, config)
    except InputError as error:
        assert "too few" in str(error)
        return
    assert [item.name for item in divided] == [item.name for item in records]
    assert all(item.ranges == (Range(0, 100, item.ranges[0].split),) for item in divided)
    splits = split_of(divided)
    assert {item.label for item in divided if splits[item.name] == "train"} == {
        item.label for item in records
    }
    if by == "group":
        for group in {item.group for item in records}:
            assert len({splits[item.name] for item in records if item.group == group}) == 1
    random.Random(seed).shuffle(records)
    assert split_of(divide(records, config)) == splits


def test_fractions_are_met_label_by_label():
    records = [record(f"{label}{n}", label) for label in "ab" for n in range(50)]
    splits = split_of(divide(records, drawn("record")))
    for label in "ab":
        names = [splits[f"{label}{n}"] for n in range(50)]
        assert [names.count(split) for split in ("train", "valid", "test")] == [30, 10, 10]


def test_the_seed_counts():
    records = [record(f"r{n}") for n in range(40)]
    one, two = drawn("record"), drawn("record")
    two.seed = 1
    assert split_of(divide(records, one)) != split_of(divide(records, two))


def test_one_strain_to_train_one_to_test():
    records = [
        record(f"{label}{strain}{n}", label, f"{label}{strain}")
        for label in "ab"
        for strain in "xy"
        for n in "12"
    ]
    splits = split_of(divide(records, drawn("group", train=0.5, test=0.5)))
    assert sorted(splits.values()) == ["test"] * 4 + ["train"] * 4


def test_column_keeps_what_the_sheet_says():
    records = [record("r", "a", ranges=(Range(0, 100, "train"),)), record("s", "b")]
    assert divide(records, SplitConfig()) == records


def test_ranges_cut_records():
    config = SplitConfig(by="range", ranges=["test=*:80-100", "train=x/chr1:0-80", "valid=y:1:0-80"])
    one, two = divide([record("x/chr1"), record("y:1")], config)
    assert one.ranges == (Range(0, 80, "train"), Range(80, 100, "test"))
    assert two.ranges == (Range(0, 80, "valid"), Range(80, 100, "test"))


@pytest.mark.parametrize(
    "ranges, message",
    [
        ([], "split.ranges is empty"),
        (["train=r"], "'train=r' is not split=record:start-end"),
        (["train=r:-5-10"], "is not split=record:start-end"),
        (["dev=r:0-10"], "'dev=r:0-10' is not"),
        (["train=q:0-10"], "no record 'q'"),
        (["train=r:0-101"], "outside of record 'r', which has positions 0-100"),
        (["train=*:50-101"], "outside of record 'r'"),
        (["train=r:10-10"], "outside of record 'r'"),
        (["train=r:0-50", "test=r:49-100"], "train 0-50 and test 49-100 of record 'r' overlap"),
        (["train=r:0-50", "test=*:0-10"], "overlap"),
    ],
)
def test_bad_ranges(ranges, message):
    with pytest.raises(InputError, match=message):
        divide([record("r")], SplitConfig(by="range", ranges=ranges))


@pytest.mark.parametrize(
    "config, message",
    [
        (SplitConfig(by="strain"), "split.by=strain: there is no such way"),
        (drawn("record", train=0.5, test=0.4), "sum to 1"),
        (drawn("record", train=1.5, test=-0.5), "sum to 1"),
        (drawn("record", train=0.5, dev=0.5), "unknown split 'dev'"),
        (drawn("group"), "record 'r' has no group"),
        (drawn("record", train=0.5, test=0.5), "1 records in 1 classes are too few.*test would be empty"),
    ],
)
def test_nonsense_is_refused(config, message):
    with pytest.raises(InputError, match=message):
        divide([record("r")], config)


def test_a_label_that_is_tested_but_never_trained_on():
    records = [
        record("r", "a", ranges=(Range(0, 100, "train"),)),
        record("s", "b", ranges=(Range(0, 100, "test"),)),
    ]
    with pytest.raises(InputError, match="label 'b' is in test but not in train"):
        divide(records, SplitConfig())
    assert divide(records[1:], SplitConfig()) == records[1:]
