"""Result files as the pipeline writes them, small; and a browser."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssm_seq.data.store import Store, StoreWriter

RATE = 8000
SPECIES = [
    "Escherichia coli",
    "Helicobacter pylori",
    "Klebsiella pneumoniae",
    "Staphylococcus aureus",
    "Vibrio cholerae",
]
LANGUAGES = ["en", "es", "fr", "it", "ru"]


def write_species(results: Path) -> None:
    """results/species, results/stores/genomes and their benchmarks: a classifier of DNA."""
    rng = np.random.default_rng(1)
    with StoreWriter(results / "stores/genomes", "dna") as writer:
        for label in SPECIES:
            for strain, split in (("s1", "train"), ("s2", "valid"), ("s3", "test")):
                group = f"{label.split()[0].lower()}_{strain}"
                data = rng.choice(np.frombuffer(b"ACGT", np.uint8), 3000)
                writer.add(f"{group}_chromosome", [data], label, group, split, source=f"data/{group}.fa.gz")
    _write_summary(results / "stores/genomes")
    folder = results / "species"
    _write_training(folder, "classify", results / "stores/genomes")
    found = []
    for length, accuracy in ((256, 0.803), (1024, 0.948), (4096, 0.99), (65536, 1.0)):
        matrix = np.diag([int(80 * accuracy)] * 5)
        for row in range(5):
            matrix[row, (row + 2) % 5] += 80 - matrix[row].sum()
        found.append(
            {"length": length, "n": 400, "accuracy": accuracy, "low": accuracy - 0.02,
             "high": min(accuracy + 0.02, 1.0), "confusion": matrix.tolist()}
        )  # fmt: skip
    _write(
        folder / "evaluation.json",
        {"task": "classify", "classes": SPECIES, "results": found, "seconds": 20.5},
    )
    kmer = [
        {"name": "4-mer logistic regression", "length": length, "metric": "accuracy", "value": value,
         "low": value - 0.03, "high": min(value + 0.03, 1.0)}
        for length, value in ((256, 0.712), (1024, 0.921), (4096, 0.985), (65536, 1.0))
    ]  # fmt: skip
    majority = {
        "name": "majority class",
        "length": None,
        "metric": "accuracy",
        "value": 0.2,
        "low": 0.2,
        "high": 0.2,
    }
    _write(folder / "baselines.json", {"results": [majority, *kmer]})
    positions = np.arange(1, 201) * 23_200
    certain = 1 - 0.8 * np.exp(-np.arange(200) / 6)
    track = [
        {"position": int(p), "probabilities": [float(c), *[float((1 - c) / 4)] * 4]}
        for p, c in zip(positions, certain, strict=True)
    ]
    memory = [{"position": int(p), "resident_mib": 412.0 + (p % 3) / 4} for p in positions]
    _write(
        folder / "score.json",
        {"file": "data/ecoli.fa.gz", "records": [
            {"record": "NC_000913.3", "length": 4_641_652, "classes": SPECIES, "track": track,
             "memory": memory, "total_bits": None, "seconds": 63.2, "positions_per_second": 73_400.0}]},
    )  # fmt: skip
    _write_benchmarks(results, "species", "genomes", ["train", "evaluate", "baselines", "score"])


def write_speech(results: Path) -> None:
    """results/speech, results/stores/prompts and their benchmarks: a language model of sound."""
    _write_prompts(results)
    folder = results / "speech"
    _write_training(folder, "language_model", results / "stores/prompts")
    curve = [
        {"position": 2**k, "bits_per_byte": 4.6 + 1.5 * 2 ** (-k / 3), "low": 4.5, "high": 7.0}
        for k in range(12)
    ]
    _write(
        folder / "evaluation.json",
        {"task": "language_model", "bits_per_byte": 4.812, "low": 4.761, "high": 4.87, "positions": 204_800,
         "by_context": curve},
    )  # fmt: skip
    names = {"order-0 Markov": 6.91, "order-1 Markov": 5.63, "FLAC (8 bit codes)": 5.77}
    _write(
        folder / "baselines.json",
        {"results": [
            {"name": name, "length": None, "metric": "bits_per_byte", "value": value, "low": value - 0.05,
             "high": value + 0.05}
            for name, value in names.items()
        ]},
    )  # fmt: skip
    (folder / "generated").mkdir()
    soundfile.write(folder / "generated/generated-0.wav", _voice(np.random.default_rng(9), 2.0, 150.0), RATE)
    _write(
        folder / "generated/generated.json",
        {"prompt": "en/prompt3", "length": 16000, "count": 1, "prompt_length": 4000, "temperature": 1.0,
         "top_p": 1.0, "seed": 0, "seconds": 21.0, "steps_per_second": 762.0},
    )  # fmt: skip
    _write_benchmarks(results, "speech", "prompts", ["train", "evaluate", "baselines", "generate"])


def write_language(results: Path) -> None:
    """results/language on the store that `write_speech` made: a classifier of sound, one speaker a label."""
    folder = results / "language"
    _write_training(folder, "classify", results / "stores/prompts")
    matrix = (np.eye(5, dtype=int) * 60 + 5).tolist()
    _write(
        folder / "evaluation.json",
        {"task": "classify", "classes": LANGUAGES, "seconds": 9.0, "results": [
            {"length": 4096, "n": 400, "accuracy": 0.765, "low": 0.72, "high": 0.81, "confusion": matrix}]},
    )  # fmt: skip
    _write(
        folder / "baselines.json",
        {"results": [
            {"name": "log-spectrogram logistic regression", "length": 4096, "metric": "accuracy",
             "value": 0.915, "low": 0.89, "high": 0.94}]},
    )  # fmt: skip
    _write_benchmarks(results, "language", "prompts", ["train", "evaluate", "baselines"])


def _write_prompts(results: Path) -> None:
    rng = np.random.default_rng(2)
    with StoreWriter(results / "stores/prompts", "mu_law", RATE) as writer:
        for number, label in enumerate(LANGUAGES):
            for clip, split in enumerate(("train", "valid", "test", "test")):
                codes = writer.alphabet.encode_waveform(_voice(rng, 1.2 + 0.5 * clip, 90.0 + 25 * number))
                writer.add(
                    f"{label}/prompt{clip}", [codes], label, f"speaker_{label}", split, source="data/prompts"
                )

    _write_summary(results / "stores/prompts")


def _voice(rng: np.random.Generator, seconds: float, pitch: float) -> np.ndarray:
    """Something with syllables, harmonics and noise."""
    time = np.arange(round(seconds * RATE)) / RATE
    syllables = np.clip(np.sin(2 * np.pi * 2.7 * time), 0, None) ** 0.7
    glide = pitch * (1 + 0.15 * np.sin(2 * np.pi * 0.9 * time))
    phase = 2 * np.pi * np.cumsum(glide) / RATE
    sound = sum(np.sin(k * phase) / k**1.2 for k in range(1, 18))
    return (0.2 * syllables * sound + 0.004 * rng.standard_normal(len(time))).astype(np.float32)


def _write_training(folder: Path, task: str, store_folder: Path) -> None:
    store = Store.open(store_folder)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    lines = []
    for step in range(10, 301, 10):
        loss = 0.3 + 1.3 * np.exp(-step / 70)
        rate = 2e-3 * min(step / 20, 0.5 + 0.5 * np.cos(np.pi * step / 300))
        lines.append(
            {"step": step, "loss": loss + 0.06 * rng.standard_normal(), "lr": rate, "grad_norm": 1.0,
             "seconds": step / 4, "tokens_per_second": 65_000.0}
        )  # fmt: skip
        if step % 50 == 0:
            measure = "valid_accuracy" if task == "classify" else "valid_bits_per_byte"
            lines.append({"step": step, "valid_loss": loss + 0.05, measure: 0.9})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _write(
        folder / "run.json",
        {"config": {}, "versions": {"python": "3.11.2", "torch": "2.11.0+cpu", "ssm_seq": "0.1.0"},
         "git_commit": "7da1d7a8e155050def9d754d7729348d0f44d32c", "store": {"checksum": store.checksum},
         "device": "a processor", "threads": 2, "parameters": 61_000, "peak_resident_mib": 734.2},
    )  # fmt: skip


def _write_benchmarks(results: Path, experiment: str, store: str, rules: list[str]) -> None:
    header = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    for number, (rule, name) in enumerate([("prepare", store), *((rule, experiment) for rule in rules)]):
        path = results / "benchmarks" / rule / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        seconds = (4.2, 75.4, 20.5, 11.3, 63.2)[number]
        path.write_text(f"{header}{seconds}\t0:00:01\t{300 + 90 * number}.5\t1\t1\t1\t0\t0\t99\t{seconds}\n")


def _write_summary(folder: Path) -> None:
    """summary.json as `prepare` writes it, as far as the report reads it."""
    store = Store.open(folder)
    parts = []
    for label in store.labels or [None]:
        for split in store.split_names:
            lengths = [r.length for r in store.records if r.label == label and r.ranges[0].split == split]
            parts.append({"label": label, "split": split, "records": len(lengths), "positions": sum(lengths)})
    _write(
        folder / "summary.json",
        {"records": len(store.records), "positions": len(store.data), "parts": parts, "skipped_reads": {},
         "consensus": []},
    )  # fmt: skip


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_consensus(results: Path) -> None:
    """results/stores/lambda_consensus: a store that is all that its experiment makes."""
    folder = results / "stores/lambda_consensus"
    with StoreWriter(folder, "dna") as writer:
        writer.add("lambda/NC_001416.1", [b"ACGT" * 100], split="train", source="data/lambda.bam")
    _write_summary(folder)
    summary = json.loads((folder / "summary.json").read_text())
    places = [{"position": 1104, "reference": "C", "consensus": "A"}]
    compared = {
        "record": "NC_001416.1", "length": 48502, "unknown": 796, "bases_seen": 447255, "compared": 47706,
        "mismatches": 41, "first_mismatches": places, "mean_depth": 9.22, "identical": 0.99914,
    }  # fmt: skip
    _write(folder / "summary.json", summary | {"consensus": [compared], "skipped_reads": {"flags": 275}})
    _write_benchmarks(results, "lambda_consensus", "lambda_consensus", [])


EXPERIMENTS = {
    "species": """
title: Bacterial species from DNA
data: {window: 1000, store: {name: genomes, samples: genomes.tsv}}
evaluate: {lengths: [256, 1024, 4096, 65536]}
score: {input: ecoli.fa.gz}
""",
    "speech": """
title: A language model of raw speech
data: {window: 2048, store: {kind: audio, name: prompts, samples: prompts.tsv}}
task: {name: language_model}
generate: {length: 16000, prompt_length: 4000}
""",
    "language": """
title: Spoken language from the raw waveform
data: {window: 4096, store: {kind: audio, name: prompts, samples: prompts.tsv}}
evaluate: {lengths: [4096]}
""",
    "lambda_consensus": """
title: Consensus of phage lambda
data: {store: {kind: consensus, name: lambda_consensus, samples: lambda.tsv}}
""",
}


@pytest.fixture(scope="session")
def config_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hydra tree with the four experiments."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.yaml").write_text("defaults: [schema, _self_, {experiment: species}]\n")
    (folder / "experiment").mkdir()
    for name, text in EXPERIMENTS.items():
        (folder / f"experiment/{name}.yaml").write_text(f"# @package _global_{text}")
    return folder


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of the experiments in EXPERIMENTS; read only."""
    folder = tmp_path_factory.mktemp("results")
    write_species(folder)
    write_speech(folder)
    write_language(folder)
    write_consensus(folder)
    return folder


@pytest.fixture(scope="session")
def chromium() -> None:
    """Where there is none the test is skipped, except in continuous integration (CI is set)."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        reason = (
            "chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)"
        )
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.fixture
def browser(chromium: None) -> Iterator[object]:
    """Headless Chromium that keeps its console's messages."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        for flag in (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", "--window-size=1280,1000", f"--user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(flag)
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()
