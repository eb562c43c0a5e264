"""Any file as text: its bytes through store, training, evaluation, generation and scoring."""

import gzip
import json

import numpy as np
import pytest

from ssm_seq.commands.cli import main
from ssm_seq.config import StoreConfig
from ssm_seq.data.prepare import prepare
from ssm_seq.data.store import Store

WORDS = [b"to be ", b"or not ", "à la carte\n".encode(), b"\x00\xff raw "]


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    lines = ["sample\tpath\tlabel\tsplit"]
    for number, split in enumerate(("train", "train", "valid", "valid", "test", "test")):
        text = b"".join(WORDS[i] for i in random.integers(2, size=300) + 2 * (number % 2))
        path = tmp_path / f"{number}.txt.gz"
        path.write_bytes(gzip.compress(text) if number else text)  # compressed or not
        lines.append(f"s{number}\t{path}\t{'ba'[number % 2]}\t{split}")
    (tmp_path / "sheet.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_store_holds_the_bytes_as_they_are(folder):
    summary = prepare(StoreConfig("text", str(folder / "sheet.tsv"), "text"), folder / "store")
    assert (summary["alphabet"], summary["records"], summary["sample_rate"]) == ("bytes", 6, None)
    store = Store.open(folder / "store")
    raw = (folder / "1.txt.gz").read_bytes()
    assert store.bytes(store.records[1]).tobytes() == gzip.decompress(raw)
    assert store.bytes(store.records[0]).tobytes() == (folder / "0.txt.gz").read_bytes()
    assert store.records[1].name == "s1/1.txt"


def test_every_command_takes_text(folder):
    values = ["experiment=text", f"data.store.samples={folder}/sheet.tsv", "data.window=65"]
    values += ["model.d_model=16", "model.n_layers=1", "optim.steps=40", "optim.lr=0.02"]
    values += [
        "evaluate.max_windows=20",
        "evaluate.lengths=[64]",
        "generate.length=30",
        "generate.prompt_length=9",
    ]
    store, model, out = (str(folder / name) for name in ("store", "run/model", "out.json"))

    def run(*arguments):
        assert main([*arguments, *values]) == 0

    run("prepare", "--out", store)
    run("train", "--store", store, "--out", str(folder / "run"))
    run("evaluate", "--store", store, "--model", model, "--out", out)
    assert json.loads((folder / "out.json").read_text())["bits_per_byte"] < 5
    run("evaluate", "--baselines", "--store", store, "--out", out)
    named = [line["name"] for line in json.loads((folder / "out.json").read_text())["results"]]
    assert named == ["order-0 Markov", "order-2 Markov"]
    run("evaluate", "--baselines", "--store", store, "--out", out, "task=classify")
    best = json.loads((folder / "out.json").read_text())["results"][-1]
    assert best["name"] == "byte frequency logistic regression" and best["value"] == 1
    run("generate", "--store", store, "--model", model, "--out", str(folder / "made"))
    assert len((folder / "made/generated-0.txt").read_bytes()) == 30
    run("score", "--model", model, "--input", str(folder / "0.txt.gz"), "--out", out)
    (record,) = json.loads((folder / "out.json").read_text())["records"]
    assert record["length"] == (folder / "0.txt.gz").stat().st_size
