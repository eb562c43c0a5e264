"""The FASTA reader against Biopython, and every kind of bad file."""

import bz2
import gzip
import io
import lzma
import subprocess
import sys

import numpy as np
import pysam
import pytest
from Bio import SeqIO
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_seq.data import fasta
from ssm_seq.data.fasta import read_fasta
from ssm_seq.data.store import Store
from ssm_seq.errors import InputError


def read(path):
    return [(name, b"".join(chunks)) for name, chunks in read_fasta(path)]


letters = st.text("ACGTUNacgtun", min_size=10, max_size=60).map(
    lambda text: text + "RYKMSWBDHVryk"[: len(text) // 4]
)
records = st.lists(letters, min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(
    records=records,
    width=st.integers(1, 70),
    end=st.sampled_from(["\n", "\r\n"]),
    last_end=st.booleans(),
    blank=st.booleans(),
    block=st.integers(1, 40),
)
def test_what_biopython_reads(tmp_path_factory, records, width, end, last_end, blank, block):
    lines = []
    for number, sequence in enumerate(records):
        lines += [f">record{number} a > b\tdescription"]
        lines += [sequence[start : start + width] for start in range(0, len(sequence), width)]
        lines += [""] * blank
    text = end.join(lines) + end * last_end
    path = tmp_path_factory.mktemp("fasta") / "x.fa"
    path.write_text(text, newline="")
    truth = [(item.id, bytes(item.seq)) for item in SeqIO.parse(io.StringIO(text.replace("\r", "")), "fasta")]
    whole, fasta._BLOCK = fasta._BLOCK, block
    try:
        assert [name for name, _ in read_fasta(path)] == [name for name, _ in truth]
        assert read(path) == truth
    finally:
        fasta._BLOCK = whole


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, "bgzip", "two members"])
def test_compressed_files_whatever_their_name(tmp_path, compress):
    text = b">a\n" + b"ACGTNacgtn" * 20_000 + b"\n>b\nTTTT\n"
    path = tmp_path / "x.fa"
    if compress == "bgzip":
        with pysam.BGZFile(str(path), "wb") as file:
            file.write(text)
    elif compress == "two members":
        path.write_bytes(gzip.compress(text[:1000]) + gzip.compress(text[1000:]))
    else:
        path.write_bytes(compress(text))
    assert read(path) == [("a", b"ACGTNacgtn" * 20_000), ("b", b"TTTT")]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "x.fa: the file is empty"),
        (b"\n \r\n", "x.fa: the file is empty"),
        (b"ACGT\n>a\nACGT\n", "starts with 'A'; expected FASTA"),
        (b"@read\nACGT\n+\nIIII\n", "starts with '@'"),
        (b"\0\0\0\0", "starts with a NUL byte"),
        (b">a\nACGT\n>b\nMKVLAERT\n", "record 'b' has 'L' at position 4; this looks like protein"),
        (b">a\nACGT\n>b\nMKVHSDNRWWSYKHVDMRSY\n", "letters of record 'b' are ambiguity codes.*protein"),
        (b">a\nACGT\nAC\0T\n", "record 'a' has a NUL byte at position 7"),
        (b">a\nAC-GT\n", "record 'a' has '-' at position 3; expected IUPAC"),
        (b">a\nAC\xe9T\n", "record 'a' has 'é' at position 3"),
        (b">a\nACGT\n>b\nAC\n>a x\nACGT\n", "'a' occurs twice"),
        (b">a\n>b\nACGT\n", "record 'a' has no sequence"),
        (b">a\nACGT\n>b\n\n", "record 'b' has no sequence"),
        (b">a\nACGT\n>b", "record 'b' has no sequence"),
        (b">\nACGT\n", "record number 1 has no name"),
        (b">a\nACGT\n> b\nACGT\n", "record number 2 has no name"),
        (b">" + b"x" * 3_000_000, "header is longer"),
    ],
)
def test_bad_files_are_named_with_record_and_position(tmp_path, content, message):
    path = tmp_path / "x.fa"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(path)
    (tmp_path / "y.fa").write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match=message.replace("x.fa", "y.fa")):
        read(tmp_path / "y.fa")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_truncated_archives(tmp_path, compress):
    data = compress(b">a\n" + bytes(np.random.default_rng(0).choice(list(b"ACGT"), 50_000)))
    path = tmp_path / "x.fa.gz"
    for length in (len(data) - 1, len(data) - 9, len(data) // 2, 12):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"x\.fa\.gz: the compressed file is truncated"):
            read(path)


def test_truncated_between_blocks_of_bgzip(tmp_path):
    path = tmp_path / "x.fa.gz"
    with pysam.BGZFile(str(path), "wb") as file:
        file.write(b">a\n" + b"ACGT" * 50_000)
    data = path.read_bytes()
    starts = [at for at in range(len(data)) if data.startswith(b"\x1f\x8b\x08\x04", at)]
    assert len(starts) > 3
    path.write_bytes(data[: starts[2]])
    assert gzip.decompress(path.read_bytes()).startswith(b">a\nACGT")
    with pytest.raises(InputError, match="bgzip file is truncated"):
        read(path)


def test_a_damaged_archive_and_a_missing_file(tmp_path):
    data = bytearray(gzip.compress(b">a\n" + bytes(np.random.default_rng(0).choice(list(b"ACGT"), 50_000))))
    data[len(data) // 2] ^= 255
    (tmp_path / "x.gz").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.gz"):
        read(tmp_path / "x.gz")
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "none.fa")


def test_progress_counts_bytes_of_the_file(tmp_path):
    path = tmp_path / "x.fa.gz"
    path.write_bytes(gzip.compress(b">a\n" + b"ACGT" * 2_000_000))
    seen = []
    for _, chunks in read_fasta(path, seen.append):
        list(chunks)
    assert seen == sorted(seen) and len(seen) > 3 and seen[-1] == path.stat().st_size


_INGEST = """
import resource, sys, time
from ssm_seq.data.fasta import read_fasta
from ssm_seq.data.store import StoreWriter
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.process_time()
with StoreWriter(sys.argv[2], "dna") as writer:
    for name, chunks in read_fasta(sys.argv[1]):
        writer.add(name, chunks)
print(time.process_time() - started, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("width", [80, None], ids=["lines", "one line"])
def test_ingest_is_fast_and_its_memory_flat(tmp_path, width):
    """48 MB a file: well above 60 MB a second of one core, and far less memory than the file has bytes."""
    sequence = np.random.default_rng(0).choice(np.frombuffer(b"ACGTacgtN", np.uint8), 48_000_000)
    body = sequence if width is None else np.insert(sequence.reshape(-1, width), width, ord("\n"), axis=1)
    (tmp_path / "x.fa").write_bytes(b">chromosome\n" + body.tobytes())
    command = [sys.executable, "-c", _INGEST, tmp_path / "x.fa", tmp_path / "store"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds, mebibytes = map(float, out.split())
    assert (tmp_path / "x.fa").stat().st_size / 1e6 / seconds > 60
    assert mebibytes < 20
    assert Store.open(tmp_path / "store").data.tobytes() == sequence.tobytes()
