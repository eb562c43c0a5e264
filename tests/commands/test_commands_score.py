"""ssm-seq score: strands, tracks, embeddings; every kind of input; killed it goes on; bad input named."""

import errno
import io
import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pyBigWig
import pytest
import soundfile
import torch
from pyarrow import parquet

from ssm_seq.commands.cli import main
from ssm_seq.config import ModelConfig
from ssm_seq.data.alphabet import DNA
from ssm_seq.data.store import StoreWriter
from ssm_seq.inference import score, score_store, tracks, tracks_parquet
from ssm_seq.models import Classifier, LanguageModel

SMALL = ModelConfig(d_model=8, n_layers=1, d_state=4)
RECORDS = {"first": "ACGTNRYKM" * 40, "second": "acgtt", "third": "GATTACA" * 30}
FASTA = "".join(f">{name} described\n{letters}\n" for name, letters in RECORDS.items())
ALL = "score.outputs=[bigwig,bedgraph,embeddings,pooled]"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    torch.manual_seed(0)
    Classifier(SMALL, 15, ["E. coli", "other/one"], "dna").save(tmp_path / "classifier")
    LanguageModel(SMALL, 15, "dna").save(tmp_path / "dna")
    LanguageModel(SMALL, 256, "mu_law", 8000).save(tmp_path / "sound")
    (tmp_path / "in.fa").write_text(FASTA)
    return tmp_path


def arguments(folder, *more, model="dna", input="in.fa", out="score.json", tracks=True):
    input = input if input == "-" else f"{folder}/{input}"
    places = ["--model", f"{folder}/{model}", "--input", input, "--out", f"{folder}/{out}"]
    return ["score", *places, *(["--tracks", f"{folder}/tracks"] if tracks else []), *more]


def scored(folder, *more, **places):
    assert main(arguments(folder, *more, **places)) == 0
    result = json.loads((folder / "score.json").read_text())
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    return result


def refused(folder, capsys, *more, **places):
    assert main(arguments(folder, *more, **places)) == 2
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1 and not (folder / "tracks").exists()
    assert not (folder / "score.json").exists()
    return sentence


def track(folder, name, record):
    file = pyBigWig.open(f"{folder}/tracks/{name}.bw")
    return np.float32(file.values(record, 0, file.chroms(record)))


def complemented(letters):
    return DNA.decode(DNA.complement(DNA.encode(letters.encode()))[::-1]).tobytes().decode()


def test_likelihood_tracks_agree_with_the_summary_and_each_other(folder):
    result = scored(folder, ALL, "score.chunk=100")
    assert result["strand"] == "forward"
    for record, (name, letters) in zip(result["records"], RECORDS.items(), strict=True):
        values = track(folder, "log_likelihood", name)
        assert (record["record"], record["length"], len(values)) == (name, len(letters), len(letters))
        assert -values.sum() / np.log(2) == pytest.approx(record["total_bits"], rel=1e-5)
        assert values[0] == pytest.approx(-np.log(15))
        entropy = track(folder, "entropy", name)
        assert ((entropy > 0) & (entropy <= np.log(15) + 1e-5)).all()
    lines = [line.split("\t") for line in (folder / "tracks/entropy.bedGraph").read_text().splitlines()]
    first = np.concatenate([[float(v)] * (int(b) - int(a)) for name, a, b, v in lines if name == "first"])
    np.testing.assert_allclose(first, track(folder, "entropy", "first"), rtol=1e-5)


def test_embeddings_pooled_and_their_index(folder):
    scored(folder, ALL)
    embeddings, pooled = (np.load(folder / f"tracks/{name}.npy") for name in ("embeddings", "pooled"))
    index = json.loads((folder / "tracks/tracks.json").read_text())
    assert embeddings.shape == (sum(map(len, RECORDS.values())), 8) and embeddings.dtype == np.float32
    for place, record in enumerate(index["records"]):
        rows = embeddings[record["start"] : record["start"] + record["length"]]
        np.testing.assert_allclose(rows.mean(0), pooled[place], rtol=1e-4, atol=1e-6)
    assert set(index["files"]) == {path.name for path in (folder / "tracks").iterdir()} - {"tracks.json"}


def test_parquet_holds_what_npy_does(folder):
    outputs = "score.outputs=[embeddings,pooled,embeddings_parquet,pooled_parquet]"
    scored(folder, outputs, "score.strand=both", "score.chunk=100")
    for name in ("embeddings", "pooled"):
        table, rows = (
            parquet.read_table(folder / f"tracks/{name}.parquet"),
            np.load(folder / f"tracks/{name}.npy"),
        )
        np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), np.float32), rows)
        sizes = map(len, RECORDS.values()) if name == "embeddings" else (1, 1, 1)
        names = [record for record, size in zip(RECORDS, sizes, strict=True) for _ in range(size)]
        assert table["record"].to_pylist() == names
    places = parquet.read_table(folder / "tracks/embeddings.parquet")["position"].to_pylist()
    assert places == [place for letters in RECORDS.values() for place in range(len(letters))]


def test_parquet_needs_an_extra(folder, monkeypatch, capsys):
    monkeypatch.setattr(tracks_parquet, "find_spec", lambda name: None)
    assert "pip install 'ssm_seq[parquet]'" in refused(folder, capsys, "score.outputs=[pooled_parquet]")


def test_a_track_for_each_class(folder):
    result = scored(folder, model="classifier")
    names = sorted(path.stem for path in (folder / "tracks").glob("*.bw"))
    assert names == ["probability_0_E._coli", "probability_1_other_one"]
    both = [track(folder, name, "third") for name in names]
    np.testing.assert_allclose(both[0] + both[1], 1, rtol=1e-5)
    expected = result["records"][2]["track"][-1]["probabilities"]
    np.testing.assert_allclose([values[-1] for values in both], expected, rtol=1e-5)


@pytest.mark.parametrize("model", ["dna", "classifier"])
def test_the_reverse_strand_and_the_mean(folder, model):
    name = "log_likelihood" if model == "dna" else "probability_1_other_one"
    values, results = {}, {}
    for strand in ("forward", "reverse", "both"):
        results[strand] = scored(folder, f"score.strand={strand}", "score.chunk=64", model=model)["records"]
        values[strand] = track(folder, name, "first")
    np.testing.assert_allclose(values["both"], (values["forward"] + values["reverse"]) / 2, rtol=1e-6)
    (folder / "in.fa").write_text(f">first\n{complemented(RECORDS['first'])}\n")
    other = scored(folder, "score.chunk=64", model=model)["records"][0]
    np.testing.assert_array_equal(track(folder, name, "first")[::-1], values["reverse"])
    assert results["reverse"][0]["track"] == other["track"] == results["both"][0]["reverse"]["track"]
    first = results["both"][0]
    assert first["track"] == results["forward"][0]["track"]
    if model == "dna":
        mean = (first["total_bits"] + first["reverse"]["total_bits"]) / 2
        assert first["mean"] == {"total_bits": pytest.approx(mean)}
    else:
        ends = [each["track"][-1]["probabilities"] for each in (first, first["reverse"])]
        assert first["mean"]["probabilities"] == pytest.approx(np.mean(ends, axis=0).tolist())


def test_one_record_a_store_and_standard_input(folder, monkeypatch):
    expected = scored(folder)["records"]
    whole = track(folder, "log_likelihood", "third")
    only = scored(folder, "--record", "third")["records"]
    assert [record["total_bits"] for record in only] == [expected[2]["total_bits"]]
    np.testing.assert_array_equal(track(folder, "log_likelihood", "third"), whole)
    with StoreWriter(folder / "store", "dna") as writer:
        for name, letters in RECORDS.items():
            writer.add(name, [letters.encode()])
    bits = [record["total_bits"] for record in expected]
    assert [record["total_bits"] for record in scored(folder, input="store")["records"]] == bits
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(FASTA.encode())))
    assert [record["total_bits"] for record in scored(folder, input="-")["records"]] == bits


def test_sound_from_a_file_and_a_pipe(folder, monkeypatch):
    samples = np.random.default_rng(0).uniform(-1, 1, 500)
    soundfile.write(folder / "in.wav", samples, 8000)
    expected = scored(folder, model="sound", input="in.wav")["records"][0]
    assert (expected["record"], expected["length"]) == ("in", 500)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO((folder / "in.wav").read_bytes())))
    piped = scored(folder, model="sound", input="-")["records"][0]
    assert (piped["record"], piped["total_bits"]) == ("stdin", expected["total_bits"])


KILLED = """
import os, signal, sys
from ssm_seq.commands.cli import main
from ssm_seq.inference import score, tracks
score.SAVE_EVERY, left, write = 0, [{writes}], tracks.Stored.write
def write_and_die(self, start, values):
    write(self, start, values)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
tracks.Stored.write = write_and_die
main(sys.argv[1:])
"""


@pytest.mark.parametrize("writes", [8, 26])  # within the first record forward; within a record in reverse
def test_a_killed_run_goes_on_to_the_same_output(folder, monkeypatch, writes):
    options = [ALL, "score.chunk=64", "score.strand=both"]
    uninterrupted = scored(folder, *options)
    expected = {path.name: path.read_bytes() for path in (folder / "tracks").iterdir()}
    for path in [folder / "score.json", *(folder / "tracks").iterdir()]:
        path.unlink()
    command = [sys.executable, "-c", KILLED.format(writes=writes), *arguments(folder, *options)]
    assert subprocess.run(command, timeout=100).returncode == -signal.SIGKILL
    assert not (folder / "score.json").exists() and not list((folder / "tracks").iterdir())
    assert list((folder / ".score.json.work").glob("*.state"))
    written = []
    write = tracks.Stored.write
    monkeypatch.setattr(
        tracks.Stored, "write", lambda self, *values: written.append(values) or write(self, *values)
    )
    again = scored(folder, *options)
    # All passes make 3 writes (two tracks, embeddings) in each of 6, 1 and 4 chunks a strand.
    assert 0 < len(written) <= 3 * 22 - writes + 3
    assert {path.name: path.read_bytes() for path in (folder / "tracks").iterdir()} == expected
    for one, other in zip(again["records"], uninterrupted["records"], strict=True):
        for key in ("track", "total_bits", "chunk", "length", "mean"):
            assert one[key] == other[key]


def test_what_another_request_left_is_not_used(folder, monkeypatch):
    expected = scored(folder, "score.chunk=64", "score.strand=reverse")

    def stop(self, start, values):
        if start >= 128:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(score, "SAVE_EVERY", 0)
        patch.setattr(tracks.Stored, "write", stop)
        assert main(arguments(folder, "score.chunk=64")) == 130
    assert list((folder / ".score.json.work").glob("forward.0.state"))
    again = scored(folder, "score.chunk=64", "score.strand=reverse")
    assert [each["track"] for each in again["records"]] == [each["track"] for each in expected["records"]]


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(folder, monkeypatch, capsys):
    write, room = tracks.Stored.write, [6]

    def full(self, start, values):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, start, values)

    monkeypatch.setattr(tracks.Stored, "write", full)
    sentence = "the disk is full; free some space, then run it again\n"
    assert refused(folder, capsys, "score.chunk=64").endswith(sentence)
    assert not list(folder.glob(".*"))
    monkeypatch.setattr(score, "SAVE_EVERY", 0)
    room[0] = 6
    assert "then run it again and it goes on\n" in refused(folder, capsys, "score.chunk=64")
    room[0] = 100
    scored(folder, "score.chunk=64")
    assert room[0] == 100 - (2 * 11 - 6)  # three of the eleven chunks were done


@pytest.mark.parametrize("what", ["write_bigwig", "write_bedgraph", "write_npy", "write_positions"])
def test_a_disk_that_is_full_at_the_end_costs_no_second_reading(folder, monkeypatch, capsys, what):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    everything = ALL.replace("pooled", "pooled,embeddings_parquet")
    with monkeypatch.context() as patch:
        patch.setattr(score_store, what, full)
        assert "then run it again and it goes on\n" in refused(folder, capsys, everything)
    monkeypatch.setattr(tracks.Stored, "write", None)  # nothing is read again
    scored(folder, everything)


def test_bad_requests_are_one_sentence(folder, capsys):
    soundfile.write(folder / "in.wav", np.zeros(50), 8000)
    with StoreWriter(folder / "store", "dna") as writer:
        writer.add("a", [b"ACGT"])
    sentence = refused(folder, capsys, "score.strand=both", model="sound", input="in.wav")
    assert "only DNA has another strand, this model reads mu_law" in sentence
    sentence = refused(folder, capsys, model="sound", input="store")
    assert "a store of dna; the model reads mu_law at 8000 Hz" in sentence
    assert "there is no record 'x'; it has first, second, third" in refused(folder, capsys, "--record", "x")
    assert "score.strand=up: expected forward, reverse, both" in refused(folder, capsys, "score.strand=up")
    assert "score.outputs has 'wig'; known: bigwig" in refused(folder, capsys, "score.outputs=[wig]")
    sentence = refused(folder, capsys, "score.precision=int8")
    assert "score.precision=int8: expected bfloat16, float32" in sentence
    (folder / "in.fa").write_text(">a\n>b\nACGT\n")
    assert "record 'a' has no sequence" in refused(folder, capsys)
    (folder / "in.fa").write_text(FASTA)
    (folder / "tracks").mkdir()
    (folder / "tracks/mine").touch()
    assert main(arguments(folder)) == 2
    assert "holds mine and is not replaced" in capsys.readouterr().err


def test_damaged_weights_are_named(folder, capsys):
    model = LanguageModel(SMALL, 15, "dna")
    with torch.no_grad():
        model.head.weight[3, 2] = torch.nan
    model.save(folder / "dna")
    assert "score: tensor head.weight of the model holds NaN" in refused(folder, capsys)
    assert not list(folder.glob(".*"))
