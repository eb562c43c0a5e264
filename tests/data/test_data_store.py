"""The store gives back the bytes it was given, and says so when it can't."""

import errno
import hashlib
import json
import os
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_seq.data.store import Range, Store, StoreWriter
from ssm_seq.errors import InputError


def write(path, *sequences, alphabet="dna", **extra):
    with StoreWriter(path, alphabet, **extra) as writer:
        for number, letters in enumerate(sequences):
            writer.add(f"r{number}", [letters])
    return path


@settings(max_examples=25, deadline=None)
@given(
    records=st.lists(
        st.lists(st.binary(max_size=20), min_size=1, max_size=4).filter(any), min_size=1, max_size=5
    ),
    as_arrays=st.booleans(),
)
def test_round_trip_of_any_bytes(tmp_path_factory, records, as_arrays):
    path = tmp_path_factory.mktemp("stores") / "store"
    with StoreWriter(path, "mu_law", sample_rate=8000) as writer:
        for number, chunks in enumerate(records):
            chunks = [np.frombuffer(chunk, np.uint8) for chunk in chunks] if as_arrays else chunks
            writer.add(
                f"r{number}", iter(chunks), label=f"l{number % 2}", group="g", split="test", source="here"
            )
    store = Store.open(path)
    assert [store.bytes(record).tobytes() for record in store.records] == [
        b"".join(chunks) for chunks in records
    ]
    assert store.checksum == hashlib.sha256(b"".join(map(b"".join, records))).hexdigest()
    assert (store.alphabet.name, store.sample_rate) == ("mu_law", 8000)
    assert store.labels == sorted({f"l{number % 2}" for number in range(len(records))})
    assert store.split_names == ["test"]
    first = store.records[0]
    assert (first.name, first.label, first.group, first.source) == ("r0", "l0", "g", "here")
    assert first.ranges == (Range(0, first.length, "test"),)
    store.verify()
    loaded = np.load(path / "sequence.npy", mmap_mode="r")
    assert isinstance(store.data, np.memmap) and loaded.tobytes() == store.data.tobytes()


def test_case_is_kept_and_ids_are_made_when_read(tmp_path):
    store = Store.open(write(tmp_path / "s", b"acgtN", b"TTga"))
    assert store.bytes(store.records[1]).tobytes() == b"TTga"
    assert store.ids(1, 1, 4).tolist() == [3, 2, 0]
    assert store.ids(0).tolist() == [0, 1, 2, 3, 4]
    assert store.sample_rate is None and store.labels == [] and store.split_names == []


def test_ranges_replaced_before_the_end_are_kept(tmp_path):
    with StoreWriter(tmp_path / "s", "dna") as writer:
        record = writer.add("r", [b"ACGT"], ranges=[Range(0, 2, "train")])
        assert record.ranges == (Range(0, 2, "train"),)
        (writer.folder / "note.txt").write_text("beside")
    assert Store.open(tmp_path / "s").records == [record]
    assert (tmp_path / "s" / "note.txt").read_text() == "beside"


def test_nothing_appears_when_the_block_fails(tmp_path):
    with pytest.raises(RuntimeError, match="midway"), StoreWriter(tmp_path / "s", "dna") as writer:
        writer.add("r", [b"ACGT"])
        raise RuntimeError("midway")
    assert list(tmp_path.iterdir()) == []


def test_an_old_store_stays_until_a_new_one_is_whole(tmp_path):
    path = write(tmp_path / "s", b"AAAA")
    with pytest.raises(InputError, match="'r'"), StoreWriter(path, "dna") as writer:
        writer.add("r", [b"CC"])
        writer.add("r", [b"CC"])
    assert Store.open(path).data.tobytes() == b"AAAA"
    write(path, b"CC")
    assert Store.open(path).data.tobytes() == b"CC"
    assert [item.name for item in tmp_path.iterdir()] == ["s"]


def test_a_folder_of_other_things_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"thesis\.txt"):
        write(tmp_path / "mine", b"ACGT")
    with pytest.raises(InputError, match="is a file"):
        write(tmp_path / "mine" / "thesis.txt", b"ACGT")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("sequences", [(), (b"",), (b"ACGT", b"")])
def test_empty_records_and_empty_stores_are_refused(tmp_path, sequences):
    with pytest.raises(InputError, match=r"no record|empty"):
        write(tmp_path / "s", *sequences)
    assert list(tmp_path.iterdir()) == []


def _shorten(path):
    os.truncate(path / "sequence.npy", (path / "sequence.npy").stat().st_size - 1)


def _lose(name):
    return lambda path: (path / name).unlink()


def _edit(**changes):
    def edit(path):
        index = json.loads((path / "index.json").read_text())
        (path / "index.json").write_text(json.dumps(index | changes))

    return edit


@pytest.mark.parametrize(
    "damage, message",
    [
        (_lose("index.json"), "no store here"),
        (_lose("sequence.npy"), "sequence.npy: the array is missing"),
        (_shorten, "sequence.npy: the array is missing or can't be read"),
        (lambda path: (path / "index.json").write_text("{"), "index.json: the index can't be read"),
        (lambda path: np.save(path / "sequence.npy", np.zeros(3, np.uint8)), r"uint8 \(3,\) where"),
        (lambda path: np.save(path / "sequence.npy", np.zeros(8, np.int16)), "int16"),
        (_edit(format=0), "format 0"),
        (_edit(alphabet="runes"), "runes"),
        (_edit(records=[]), "0 bytes"),
        (_edit(size=6), r"uint8 \(8,\) where the index says uint8 \(6,\)"),
        (_edit(records=[{"name": "r0", "start": 4, "length": 4}]), "can't be read|where it should be"),
        (
            _edit(records=[{"name": "r0", "start": 0, "length": 8, "ranges": [[0, 9, "train"]]}]),
            "'r0' is not where it should be",
        ),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    path = write(tmp_path / "s", b"ACGT", b"ACGT")
    damage(path)
    with pytest.raises(InputError, match=message):
        Store.open(path)


def test_a_flipped_byte_is_found_by_verify(tmp_path):
    path = write(tmp_path / "s", b"ACGT" * 100)
    with (path / "sequence.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"A")
    with pytest.raises(InputError, match="checksum"):
        Store.open(path).verify()


@pytest.fixture(params=["tmpfs", "injected"])
def small_disk(request, tmp_path, monkeypatch):
    """A folder with room for one MiB: a real one where it may be mounted, and one by a failing write."""
    folder = tmp_path / "small"
    folder.mkdir()
    if request.param == "injected":

        def no_room(self, name, chunks, *args, **kwargs):
            self._file.write(b"".join(chunks)[:1000])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(StoreWriter, "add", no_room)
        yield folder
        return
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting a tmpfs needs root; the injected error covers this here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_named_and_nothing_stays(small_disk):
    with pytest.raises(InputError, match=r"small: the disk is full after \d+ bytes of store s"):
        write(small_disk / "s", b"ACGT" * 250_000, b"ACGT" * 250_000)
    assert list(small_disk.iterdir()) == []
