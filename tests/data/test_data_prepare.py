"""From files to a store: names, splits, the summary, and nothing half-written whatever goes wrong."""

import gzip
import json
import subprocess

import numpy as np
import pysam
import pytest
import soundfile

from ssm_seq.config import SplitConfig, StoreConfig
from ssm_seq.data.alphabet import MU_LAW
from ssm_seq.data.prepare import prepare
from ssm_seq.data.store import Range, Store
from ssm_seq.errors import InputError


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sheet(project, *rows, columns="sample path label group split"):
    lines = ["\t".join(columns.split()), *("\t".join(row) for row in rows)]
    (project / "sheet.tsv").write_text("\n".join(lines) + "\n")


def store_of(project, **config):
    summary = prepare(StoreConfig(name="s", samples="sheet.tsv", **config), project / "stores" / "s")
    store = Store.open(project / "stores" / "s")
    store.verify()
    assert summary == json.loads((store.path / "summary.json").read_text())
    assert summary["sha256"] == store.checksum and summary["positions"] == len(store.data)
    return store, summary


def test_fasta(project):
    (project / "one.fa").write_text(">c1 x\r\nACGTacgt\r\nNN\r\n>c2\r\nRYK\r\nAAAA\r\n", newline="")
    (project / "two.fa.gz").write_bytes(gzip.compress(b">c1\nTTTTT\n"))
    sheet(
        project,
        ("strain1", "one.fa", "x", "g", "train"),
        ("strain2", "two.fa.gz", "x", "g", "test"),
    )
    store, summary = store_of(project)
    found = [(record.name, store.bytes(record).tobytes(), record.ranges) for record in store.records]
    assert found == [
        ("strain1/c1", b"ACGTacgtNN", (Range(0, 10, "train"),)),
        ("strain1/c2", b"RYKAAAA", (Range(0, 7, "train"),)),
        ("strain2/c1", b"TTTTT", (Range(0, 5, "test"),)),
    ]
    assert {record.label for record in store.records} == {"x"} and store.records[2].source == "two.fa.gz"
    assert summary["parts"] == [
        {"label": "x", "split": "test", "records": 1, "positions": 5},
        {"label": "x", "split": "train", "records": 2, "positions": 17},
    ]
    assert summary["groups_in_several_splits"] == ["g"]
    assert (summary["kind"], summary["alphabet"], summary["records"]) == ("fasta", "dna", 3)
    assert summary["input_bytes"] == sum((project / name).stat().st_size for name in ("one.fa", "two.fa.gz"))


def test_another_sheet_than_the_configs(project):
    (project / "one.fa").write_text(">c\nACGT\n")
    (project / "other.csv").write_text("sample,path\nmine,one.fa\n")
    prepare(StoreConfig(name="s", samples="none.tsv"), project / "s", project / "other.csv")
    assert [record.name for record in Store.open(project / "s").records] == ["mine/c"]


@pytest.mark.parametrize("by", ["group", "record"])
def test_splits_are_the_same_for_any_order_of_rows(project, by):
    rows = []
    for number in range(12):
        (project / f"{number}.fa").write_text(">c\n" + "ACGT" * (number + 1))
        rows.append((f"s{number}", f"{number}.fa", f"l{number % 2}", f"g{number // 2 % 5}{number % 2}", ""))
    found = []
    for order in (rows, rows[::-1]):
        sheet(project, *order)
        store, summary = store_of(project, split=SplitConfig(by, {"train": 0.6, "test": 0.4}))
        found.append({record.name: record.ranges for record in store.records})
        assert store.split_names == ["train", "test"] and store.labels == ["l0", "l1"]
        assert by == "record" or summary["groups_in_several_splits"] == []
    assert found[0] == found[1]


def test_ranges(project):
    (project / "one.fa").write_text(">c\n" + "ACGT" * 25)
    sheet(project, ("s", "one.fa"), columns="sample path")
    store, summary = store_of(project, split=SplitConfig("range", ranges=["train=s/c:0-80", "test=*:90-100"]))
    assert store.records[0].ranges == (Range(0, 80, "train"), Range(90, 100, "test"))
    assert [(part["split"], part["positions"]) for part in summary["parts"]] == [("test", 10), ("train", 80)]


@pytest.mark.parametrize("encoding", ["mu_law", "linear"])
def test_audio(project, encoding):
    time = np.arange(4000) / 16_000
    for name in ("b", "a"):
        soundfile.write(project / f"{name}.flac", np.sin(time * 2000)[:, None].repeat(2, 1) * 0.5, 16_000)
    sheet(project, ("en", "*.flac", "English", "Ann", "train"))
    store, summary = store_of(project, kind="audio", encoding=encoding)
    assert [record.name for record in store.records] == ["en/a", "en/b"]
    assert (store.alphabet.name, store.sample_rate, summary["sample_rate"]) == (encoding, 8000, 8000)
    decoded = store.alphabet.decode_waveform(store.bytes(store.records[0]))
    expected = np.sin(np.arange(2000) / 8000 * 2000) * 0.5
    assert np.abs(decoded - expected)[50:-50].max() < 0.012 and len(decoded) == 2000


def test_silence_stays_silent(project):
    soundfile.write(project / "a.wav", np.zeros(800), 8000)
    sheet(project, ("s", "a.wav"), columns="sample path")
    store, _ = store_of(project, kind="audio")
    assert np.abs(MU_LAW.decode_waveform(np.asarray(store.data))).max() < 1e-4


@pytest.fixture
def bam(project):
    """Ten reads of eight bases, three of them on the other strand, one duplicate; with its reference."""
    reference = "ACGGTTACTC" * 3
    header = {"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": "chr", "LN": 30}]}
    with pysam.AlignmentFile(project / "x.bam", "wb", header=header) as file:
        for number in range(10):
            read = pysam.AlignedSegment(file.header)
            read.query_name, read.reference_id, read.reference_start = f"q{number}", 0, number * 2
            read.query_sequence = "T" + reference[1:8] if number == 0 else reference[number * 2 :][:8]
            read.cigarstring, read.mapping_quality, read.flag = "8M", 60, 16 if number % 4 == 1 else 0
            read.flag |= 0x400 if number == 9 else 0
            file.write(read)
    pysam.index(str(project / "x.bam"))
    (project / "x.fa").write_text(f">chr\n{reference}\n")
    return project


def test_reads_and_consensus(bam):
    sheet(bam, ("lambda", "x.bam"), columns="sample path")
    store, summary = store_of(bam, kind="reads", reference="x.fa")
    assert [record.name for record in store.records] == [f"lambda/q{number}" for number in range(9)]
    assert store.bytes(store.records[1]).tobytes() == b"GAGTAACC"
    assert summary["skipped_reads"] == {"flags": 1} and summary["consensus"] == [] and store.split_names == []
    store, summary = store_of(bam, kind="consensus", reference="x.fa")
    assert [record.name for record in store.records] == ["lambda/chr"]
    assert store.data.tobytes() == b"TCGGTTACTC" + b"ACGGTTACTC" + b"ACGG" + b"N" * 6
    (comparison,) = summary["consensus"]
    assert comparison["first_mismatches"] == [{"position": 1, "reference": "A", "consensus": "T"}]
    assert (comparison["compared"], comparison["mismatches"], comparison["unknown"]) == (24, 1, 6)
    assert comparison["mean_depth"] == 72 / 30 and summary["skipped_reads"] == {"flags": 1}


def _write(name, content):
    return lambda project: (project / name).write_bytes(content)


def _nan(project):
    soundfile.write(project / "x", np.full(100, np.nan), 8000, subtype="FLOAT", format="WAV")


def _no_samples(project):
    soundfile.write(project / "x", np.zeros(0), 8000, format="WAV")


def _cut_wav(project):
    soundfile.write(project / "x", np.zeros(1000), 8000, format="WAV")
    (project / "x").write_bytes((project / "x").read_bytes()[:500])


@pytest.mark.parametrize(
    "kind, make, message",
    [
        ("fasta", _write("x", b""), "x: the file is empty"),
        (
            "fasta",
            _write("x", gzip.compress(b">a\n" + b"ACGT" * 1000)[:-10]),
            "x: the compressed file is truncated",
        ),
        ("fasta", _write("x", b">a\nMKVLILACLE\n"), "'a' has 'L' at position 4; this looks like protein"),
        ("fasta", _write("x", b">a\nAC\0GT\n"), "'a' has a NUL byte at position 3"),
        ("fasta", _write("x", b">a\nAC\n>a\nGT\n"), "x: the record name 'a' occurs twice"),
        ("reads", _write("x", b"no bam"), "x: truncated, damaged, or neither BAM nor CRAM"),
        ("consensus", _write("x", b"no bam"), "x: truncated, damaged, or neither BAM nor CRAM"),
        ("audio", _write("x", b"no wav"), "x: the content is not sound"),
        ("audio", _no_samples, "x: the file has no samples"),
        ("audio", _nan, "x: sample 0 .* NaN"),
        ("audio", _cut_wav, r"x: truncated or damaged: \d+ samples, where its header promises 1000"),
        (
            "protein",
            _write("x", b">a\nACGT\n"),
            "kind=protein: expected one of fasta, reads, consensus, audio",
        ),
    ],
)
def test_bad_files_leave_nothing(project, kind, make, message):
    """The second of two files is bad, so that something was written before it was found."""
    make(project)
    good = project / "good"
    if kind == "audio":
        soundfile.write(good, np.zeros(500), 8000, format="WAV")
    else:
        good.write_text(">good\nACGT\n")
    first = [("first", "good")] if kind in ("fasta", "audio") else []
    sheet(project, *first, ("second", "x"), columns="sample path")
    (project / "stores").mkdir()
    with pytest.raises(InputError, match=message) as error:
        store_of(project, kind=kind)
    assert "\n" not in str(error.value)
    assert list((project / "stores").iterdir()) == []


@pytest.mark.parametrize(
    "config, message",
    [
        ({"kind": "audio", "encoding": "dna"}, "encoding=dna: expected mu_law or linear"),
        ({"kind": "audio", "encoding": "alaw"}, "there is no alphabet 'alaw'"),
        ({"kind": "audio", "sample_rate": 0}, "sample_rate=0"),
        ({"kind": "reads", "reference": "none.fa"}, "none.fa: can't be read"),
        ({"split": SplitConfig("group")}, "record 's/a' has no group"),
        ({"samples": "none.tsv"}, "none.tsv: the sample sheet can't be read"),
    ],
)
def test_bad_configurations_leave_nothing(project, config, message):
    (project / "x.fa").write_text(">a\nACGT\n")
    sheet(project, ("s", "x.fa"), columns="sample path")
    (project / "stores").mkdir()
    with pytest.raises(InputError, match=message):
        prepare(StoreConfig(**{"name": "s", "samples": "sheet.tsv"} | config), project / "stores" / "s")
    assert list((project / "stores").iterdir()) == []


def test_a_full_disk(project):
    small = project / "small"
    small.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting a tmpfs needs root; the store's own test injects the error")
    try:
        (project / "x.fa").write_text(">a\n" + "ACGT" * 500_000)
        sheet(project, ("s", "x.fa"), columns="sample path")
        with pytest.raises(InputError, match="small: the disk is full after"):
            prepare(StoreConfig(name="s", samples="sheet.tsv"), small / "s")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_nothing_is_said_off_a_terminal(project, capfd):
    (project / "x.fa").write_text(">a\nACGT\n")
    sheet(project, ("s", "x.fa"), columns="sample path")
    store_of(project)
    assert capfd.readouterr() == ("", "")
