"""Train, valid and test: whole records, whole groups or coordinate ranges; seeded, in any order of rows."""

import hashlib
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

from ssm_seq.config import SplitConfig
from ssm_seq.data.store import SPLITS, Range, Record
from ssm_seq.errors import InputError


def divide(records: list[Record], config: SplitConfig) -> list[Record]:
    """The records with their ranges set as `config` says; by `column` they keep those they have.

    Drawn splits (`record`, `group`) are stratified: units with the same labels are sorted by a hash of seed
    and name and cut by the fractions, with at least one in train. The result depends on names and seed alone.

    Raises:
        InputError: an unknown way, split or record, fractions that don't sum to 1, a record without a group,
            a range outside its record, overlapping ranges, a split without records, a label missing in train.
    """
    if config.by == "column":
        divided = list(records)
    elif config.by in ("record", "group"):
        divided = _draw(records, config)
    elif config.by == "range":
        divided = _cut(records, config.ranges)
    else:
        raise InputError(f"split.by={config.by}: there is no such way; known: column, record, group, range")
    _check_labels(divided)
    return divided


def _draw(records: list[Record], config: SplitConfig) -> list[Record]:
    wanted = config.fractions or {"train": 0.8, "valid": 0.1, "test": 0.1}
    fractions = [wanted.get(split, 0.0) for split in SPLITS]
    if unknown := set(config.fractions) - set(SPLITS):
        raise InputError(f"split.fractions: unknown split {min(unknown)!r}; known: {', '.join(SPLITS)}")
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"split.fractions: {wanted} must be positive and sum to 1")
    units: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if config.by == "group" and record.group is None:
            raise InputError(
                f"{record.source}: record {record.name!r} has no group; split.by=group needs one"
            )
        units[record.name if config.by == "record" else record.group].append(record)
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for unit, members in units.items():
        strata[tuple(sorted({str(record.label) for record in members}))].append(unit)
    split_of: dict[str, str] = {}
    for members in strata.values():
        members.sort(key=lambda unit: hashlib.sha256(f"{config.seed}/{unit}".encode()).digest())
        first = max(round(fractions[0] * len(members)), int(fractions[0] > 0))
        second = max(round((fractions[0] + fractions[1]) * len(members)), first)
        for place, unit in enumerate(members):
            split_of[unit] = SPLITS[(place >= first) + (place >= second)]
    for split, fraction in zip(SPLITS, fractions, strict=True):
        if fraction > 0 and split not in split_of.values():
            raise InputError(
                f"split.by={config.by}: {len(units)} {config.by}s in {len(strata)} classes are too few for "
                f"fractions {wanted}: {split} would be empty"
            )
    return [
        replace(record, ranges=(Range(0, record.length, split_of[unit]),))
        for record in records
        for unit in (record.name if config.by == "record" else record.group,)
    ]


def _cut(records: list[Record], entries: list[str]) -> list[Record]:
    ranges: dict[str, list[Range]] = {record.name: [] for record in records}
    lengths = {record.name: record.length for record in records}
    if not entries:
        raise InputError("split.by=range: split.ranges is empty; expected entries split=record:start-end")
    for entry in entries:
        split, _, rest = entry.partition("=")
        name, _, span = rest.rpartition(":")
        start, _, end = span.partition("-")
        if split not in SPLITS or not name or not start.isdecimal() or not end.isdecimal():
            raise InputError(
                f"split.ranges: {entry!r} is not split=record:start-end with a split of {SPLITS}"
            )
        if name != "*" and name not in ranges:
            raise InputError(f"split.ranges: {entry!r}: there is no record {name!r} in the store")
        for target in ranges if name == "*" else [name]:
            if not int(start) < int(end) <= lengths[target]:
                raise InputError(
                    f"split.ranges: {entry!r} is outside of record {target!r}, which has positions "
                    f"0-{lengths[target]}"
                )
            ranges[target].append(Range(int(start), int(end), split))
    for name, spans in ranges.items():
        spans.sort()
        for left, right in pairwise(spans):
            if right.start < left.end:
                raise InputError(
                    f"split.ranges: {left.split} {left.start}-{left.end} and {right.split} "
                    f"{right.start}-{right.end} of record {name!r} overlap"
                )
    return [replace(record, ranges=tuple(ranges[record.name])) for record in records]


def _check_labels(records: list[Record]) -> None:
    """What is never seen in training can't be told apart later; a store for tests alone is no such case."""
    labels: dict[str, set[str]] = {split: set() for split in SPLITS}
    for record in records:
        for span in record.ranges:
            if record.label is not None:
                labels[span.split].add(record.label)
    for split in ("valid", "test"):
        if labels["train"] and (missing := labels[split] - labels["train"]):
            raise InputError(f"the label {min(missing)!r} is in {split} but not in train")
