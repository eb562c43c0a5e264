"""score and generate on small untrained models: what they write, what they refuse."""

import json
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
import torch

from ssm_seq.commands.cli import main
from ssm_seq.config import ModelConfig
from ssm_seq.data.store import StoreWriter
from ssm_seq.models import Classifier, LanguageModel

SMALL = ModelConfig(d_model=8, n_layers=1, d_state=4)
PROMPTED = ["generate", "--model", "{m}/sound", "--store", "{m}/sounds", "generate.length=3"]
DNA = ["generate", "--model", "{m}/dna", "generate.length=3"]
LONG_PROMPT = [*PROMPTED, "generate.prompt_length=300"]


@pytest.fixture
def models(tmp_path):
    Classifier(SMALL, 15, ["a", "b"], "dna").save(tmp_path / "dna_classifier")
    LanguageModel(SMALL, 15, "dna").save(tmp_path / "dna")
    LanguageModel(SMALL, 256, "mu_law", 8000).save(tmp_path / "sound")
    with StoreWriter(tmp_path / "sounds", "mu_law", 8000) as writer:
        writer.add("short", [bytes(range(50))], split="test")
        writer.add("long", [bytes(range(200))], split="test")
    with StoreWriter(tmp_path / "bad", "dna") as writer:
        writer.add("r", [b"ACGZTT"], split="test")
    (tmp_path / "two.fa").write_text(">first\n" + "ACGTN" * 60 + "\n>second\nacgt\n")
    return tmp_path


def test_score_reads_every_record_to_its_end(models):
    out = models / "score.json"
    command = [
        "score",
        "--model",
        f"{models}/dna_classifier",
        "--input",
        f"{models}/two.fa",
        "--out",
        str(out),
    ]
    assert main([*command, "score.chunk=128"]) == 0
    first, second = json.loads(out.read_text())["records"]
    assert [point["position"] for point in first["track"]] == [128, 256, 300]
    assert (second["record"], second["length"]) == ("second", 4)
    assert all(sum(point["probabilities"]) == pytest.approx(1) for point in first["track"])
    assert sorted(path.name for path in models.iterdir() if "score" in path.name) == ["score.json"]


def test_score_does_not_depend_on_the_chunk(models):
    scored = []
    for chunk in (7, 300):
        out = models / f"score-{chunk}.json"
        main(
            [
                "score",
                "--model",
                f"{models}/dna",
                "--input",
                f"{models}/two.fa",
                "--out",
                str(out),
                f"score.chunk={chunk}",
            ]
        )
        scored.append([record["total_bits"] for record in json.loads(out.read_text())["records"]])
    assert scored[0] == pytest.approx(scored[1], rel=1e-5)


def test_generate_sound_goes_on_from_a_test_record_and_repeats_itself(models):
    for name in ("one", "two"):
        command = [
            "generate",
            "--model",
            f"{models}/sound",
            "--store",
            f"{models}/sounds",
            "--out",
            f"{models}/{name}",
        ]
        assert main([*command, "generate.length=400", "generate.prompt_length=100", "generate.count=2"]) == 0
    samples, rate = soundfile.read(models / "one/generated-1.wav", dtype="int16")
    assert (len(samples), rate) == (400, 8000)
    assert json.loads((models / "one/generated.json").read_text())["prompt"] == "long"
    again, _ = soundfile.read(models / "two/generated-1.wav", dtype="int16")
    np.testing.assert_array_equal(samples, again)


def test_generate_dna_as_fasta(models):
    assert (
        main(["generate", "--model", f"{models}/dna", "--out", f"{models}/made", "generate.length=100"]) == 0
    )
    header, *lines = (models / "made/generated.fa").read_text().splitlines()
    assert header == ">generated-0"
    assert len("".join(lines)) == 100 and len(lines[0]) == 80


def fasta(path):
    """The sequences of a FASTA file."""
    return ["".join(part.split("\n")[1:]) for part in path.read_text().split(">")[1:]]


def test_generate_goes_on_from_the_state_that_it_left(models):
    command = ["generate", "--model", f"{models}/dna", "generate.seed=7"]
    for more in (
        ["--out", f"{models}/whole", "generate.length=50", "generate.count=2"],
        ["--out", f"{models}/first", "generate.length=20", "generate.count=2", "generate.state=true"],
        ["--out", f"{models}/second", "generate.length=30", "--state", f"{models}/first/state.safetensors"],
    ):
        assert main([*command, *more]) == 0
    first, second, whole = (fasta(models / f"{name}/generated.fa") for name in ("first", "second", "whole"))
    assert [a + b for a, b in zip(first, second, strict=True)] == whole
    assert not (models / "whole/state.safetensors").exists()


def test_generate_stops_behind_letters(models):
    command = ["generate", "--model", f"{models}/dna", "--out", f"{models}/made", "generate.length=300"]
    assert main([*command, "generate.count=3", "generate.stop=[AC,G]", "generate.top_k=4"]) == 0
    made = fasta(models / "made/generated.fa")
    about = json.loads((models / "made/generated.json").read_text())
    assert about["lengths"] == [len(text) for text in made] and max(about["lengths"]) < 300
    assert all(text.endswith(("AC", "G")) for text in made)
    assert not any("AC" in text[:-1] or "G" in text[:-1] for text in made)


def test_generate_by_label(models):
    """Two labels, each a run of its own; both ways to name one give the same."""
    torch.manual_seed(0)
    labelled = LanguageModel(SMALL, 15, "dna", classes=["one", "two, or more"])
    labelled.backbone.embedding.weight.data.mul_(50)
    labelled.head.weight.data.mul_(20)
    labelled.save(models / "labelled")
    for out, label in (
        ("first", ["--label", "one"]),
        ("second", ["--label", "two, or more"]),
        ("again", ["generate.label=one"]),
    ):
        command = ["generate", "--model", f"{models}/labelled", "--out", f"{models}/{out}", *label]
        assert main([*command, "generate.length=60", "generate.count=2"]) == 0
    first, second, again = (fasta(models / f"{name}/generated.fa") for name in ("first", "second", "again"))
    assert first == again != second
    assert json.loads((models / "second/generated.json").read_text())["label"] == "two, or more"


def test_generate_behind_letters(models):
    """What is written begins behind the prompt; the prompt stands in the description."""
    torch.manual_seed(0)
    model = LanguageModel(SMALL, 15, "dna")
    model.head.weight.data.mul_(20)
    model.save(models / "sure")
    for out, prompt in (
        ("some", ["--prompt", "ACGTNacg"]),
        ("same", ["generate.prompt=ACGTNacg"]),
        ("none", []),
    ):
        command = ["generate", "--model", f"{models}/sure", "--out", f"{models}/{out}"]
        assert main([*command, "generate.length=30", *prompt]) == 0
    about = json.loads((models / "some/generated.json").read_text())
    assert about["prompt"] == "ACGTNacg" and about["lengths"] == [30]
    some, same, none = (fasta(models / f"{name}/generated.fa") for name in ("some", "same", "none"))
    assert some == same != none


def test_generate_notices_damaged_weights_and_states(models, capsys):
    broken = LanguageModel(SMALL, 15, "dna")
    broken.backbone.norm.weight.data[3] = np.nan
    broken.save(models / "broken")
    command = ["generate", "generate.length=20", "--model"]
    first = [*command, f"{models}/dna", "--out", f"{models}/first", "generate.state=true"]
    assert main(first) == 0
    state = f"{models}/first/state.safetensors"
    for more, sentence in (
        ([f"{models}/broken"], "tensor backbone.norm.weight of the model holds NaN"),
        ([f"{models}/sound", "--state", state], "the state of model"),
    ):
        assert main([*command, *more, "--out", f"{models}/second"]) == 2
        shown = capsys.readouterr().err
        assert sentence in shown and shown.count("\n") == 1
    assert not (models / "second").exists()


@contextmanager
def files_of_at_most(size):
    """What is longer fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("model", "more"), [("sound", []), ("dna", []), ("dna", ["generate.state=true"])])
def test_generate_on_a_full_disk_leaves_nothing(models, capsys, model, more):
    length = 20 if more else 9000
    command = [
        "generate",
        "--model",
        f"{models}/{model}",
        "--out",
        f"{models}/o",
        f"generate.length={length}",
    ]
    before = sorted(models.iterdir())
    with files_of_at_most(1000):
        assert main([*command, *more]) == 2
    shown = capsys.readouterr().err
    assert "File too large" in shown and shown.count("\n") == 1
    assert sorted(models.iterdir()) == before
    assert main([*command, *more]) == 0


@pytest.mark.parametrize(
    "command, expected",
    [
        (["score", "--model", "{m}/dna", "--input", "{m}/none.fa"], "none.fa"),
        (["score", "--model", "{m}/sound", "--input", "{m}/two.fa"], "two.fa"),
        (["generate", "--model", "{m}/dna_classifier", "generate.length=3"], "classifier"),
        (["generate", "--model", "{m}/sound", "generate.length=3", "generate.prompt_length=3"], "--store"),
        (LONG_PROMPT, "no test record is 300 positions long"),
        ([*PROMPTED, "generate.prompt_length=3", "--state", "{m}/x"], "a state knows its past"),
        ([*PROMPTED, "--label", "loud", "--state", "{m}/x"], "generate.label: a state knows its past"),
        ([*PROMPTED, "--label", "loud"], "label 'loud': the model was trained without labels"),
        ([*PROMPTED, "--prompt", "ACGT"], "generate.prompt=ACGT: a model of sound has no letters"),
        ([*DNA, "--prompt", "AC!T"], "generate.prompt=AC!T: position 3: '!' is not in the dna alphabet"),
        ([*DNA, "--prompt", "ACé"], "position 3: byte 0xc3 is not in the dna alphabet"),
        ([*DNA, "--prompt", "AC", "generate.prompt_length=3"], "give the letters or the length"),
        ([*DNA, "--store", "{m}/sounds", "generate.prompt_length=3"], "sounds: a store of mu_law at 8000 Hz"),
        ([*DNA, "--store", "{m}/bad", "generate.prompt_length=5"], "bad: record r: position 4: 'Z' is not"),
        ([*PROMPTED, "--state", "{m}/x"], "no such file; expected a saved state"),
        ([*PROMPTED, "generate.stop=[A]"], "no letters"),
        ([*PROMPTED, "generate.top_p=0"], "generate.top_p=0.0: expected more than 0"),
        ([*PROMPTED, "generate.precision=int8"], "generate.precision=int8: expected bfloat16, float32"),
        (
            ["generate", "--model", "{m}/dna", "generate.length=3", "generate.stop=[AZ]"],
            "'Z' is not in the dna",
        ),
    ],
)
def test_refusals_are_one_sentence_and_leave_nothing(models, capsys, command, expected):
    before = sorted(models.iterdir())
    assert main([*(item.format(m=models) for item in command), "--out", f"{models}/o"]) == 2
    shown = capsys.readouterr().err
    assert expected in shown and shown.count("\n") == 1
    assert sorted(models.iterdir()) == before
