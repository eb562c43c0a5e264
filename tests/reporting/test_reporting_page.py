"""Pages: made from result files alone, whole, the same every time, and holding all they show."""

import json
import re
import shutil
from pathlib import Path

import pytest

from ssm_seq.config import Config, compose
from ssm_seq.errors import InputError
from ssm_seq.files import write_json
from ssm_seq.reporting import facts, page, summary
from ssm_seq.reporting.panels import panels, sounds_of
from ssm_seq.reporting.results import Results, Step, read_results, read_steps

ROOT = Path(__file__).parents[2]
STORES = {
    "species": "genomes",
    "speech": "prompts",
    "language": "prompts",
    "lambda_consensus": "lambda_consensus",
}


def read(results: Path, name: str, config: Config | None = None) -> Results:
    config = config or compose([f"experiment={name}"], ROOT / "config")
    return read_results(results / name, results / "stores" / STORES[name], results / "benchmarks", config)


def make(results: Path, name: str, out: Path) -> str:
    arguments = ["--folder", str(results / name), "--store", str(results / "stores" / STORES[name])]
    arguments += ["--benchmarks", str(results / "benchmarks"), "--config-dir", str(ROOT / "config")]
    arguments += ["--figures", str(out / "figures"), "--out", str(out / "page.html"), f"experiment={name}"]
    assert page.main(arguments) == 0
    return (out / "page.html").read_text()


@pytest.fixture
def copy(results: Path, tmp_path: Path) -> Path:
    """Result files that a test may damage."""
    return Path(shutil.copytree(results, tmp_path / "results"))


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("species", {"accuracy_by_length", "confusion", "whole_pass", "loss", "timings"}),
        ("speech", {"bits_per_byte", "bits_by_context", "sounds", "loss", "timings"}),
        ("language", {"confusion", "sounds", "loss", "timings"}),
        ("lambda_consensus", {"timings"}),
    ],
)
def test_page_has_the_figures_that_the_results_allow(
    results: Path, tmp_path: Path, name: str, figures: set[str]
) -> None:
    html = make(results, name, tmp_path)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {f"{figure}.svg" for figure in figures}
    assert set(re.findall(r'<figure id="(\w+)">', html)) == figures
    assert html.count("<svg") == len(figures)
    captions = (ROOT / "workflows/report/figure.rst").read_text()
    assert all(f'"{figure}":' in captions for figure in figures)


@pytest.mark.parametrize("name", STORES)
def test_page_is_the_same_twice_and_needs_nothing_else(results: Path, tmp_path: Path, name: str) -> None:
    html = make(results, name, tmp_path / "a")
    assert html == make(results, name, tmp_path / "b")
    for figure in (tmp_path / "a/figures").iterdir():
        assert figure.read_bytes() == (tmp_path / "b/figures" / figure.name).read_bytes()
    links = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')\s>]+)', html)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_page_of_a_classifier_says_what_was_measured(results: Path, tmp_path: Path) -> None:
    html = make(results, "species", tmp_path)
    assert "Bacterial species from DNA" in html
    for said in (
        "94.8 %",
        "400 test windows of 1,024 bases",
        "92.8–96.8 %",
        "4-mer logistic regression 92.1 %",
    ):
        assert said in html
    assert "With 65,536 bases to read, the same model reaches 100.0 %" in html
    assert "No group of the test split was seen in training" in html
    assert "4,641,652 bases in one recurrent pass" in html
    assert "reverse_complement: true" in html  # the configuration
    assert "7da1d7a8e155050def9d754d7729348d0f44d32c" in html
    assert read(results, "species").store.checksum in html
    assert "<audio" not in html


def test_page_of_sound_has_players(results: Path, tmp_path: Path) -> None:
    html = make(results, "speech", tmp_path)
    assert html.count("<audio controls") == 2
    assert "en/prompt3" in html  # the recording that the model went on from
    assert "after the first 0.5 s of it" in html
    assert make(results, "language", tmp_path).count("<audio controls") == 5


def test_one_speaker_a_label_is_not_hidden(results: Path) -> None:
    remarks = facts.remarks(read(results, "language"))
    assert any("Each label is one speaker" in remark and "speaker_en" in remark for remark in remarks)
    assert not any("Each label" in remark for remark in facts.remarks(read(results, "species")))


def test_own_remark_comes_first(results: Path) -> None:
    config = compose(["experiment=species", "remark='Mind the gap.'"], ROOT / "config")
    assert facts.remarks(read(results, "species", config))[0] == "Mind the gap."


def test_a_store_that_changed_since_training_is_told(copy: Path) -> None:
    run = json.loads((copy / "species/run.json").read_text())
    run["store"]["checksum"] = "0" * 64
    write_json(copy / "species/run.json", run)
    assert any(
        "not those that the model was trained on" in text for text in facts.remarks(read(copy, "species"))
    )


def test_page_of_a_consensus(results: Path, tmp_path: Path) -> None:
    html = make(results, "lambda_consensus", tmp_path)
    for said in ("99.914 %", "47,706", "mean depth of 9.2 reads", "1,104"):
        assert said in html


def test_text_from_results_is_escaped(copy: Path, tmp_path: Path) -> None:
    path = copy / "species/baselines.json"
    path.write_text(path.read_text().replace("majority class", "<script>alert(1)</script>"))
    html = make(copy, "species", tmp_path)
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_generated_bases_are_shown(copy: Path, tmp_path: Path) -> None:
    (copy / "species/generated").mkdir()
    (copy / "species/generated/generated.fa").write_text(">generated-0\nGATTACA\n")
    assert "GATTACA" in make(copy, "species", tmp_path)


@pytest.mark.parametrize(
    "missing", ["score.json", "evaluation.json", "baselines.json", "metrics.jsonl", "run.json"]
)
def test_missing_results_leave_their_figures_out(copy: Path, missing: str) -> None:
    (copy / "species" / missing).unlink()
    found = read(copy, "species")
    shown = {panel.name for panel in panels(found, sounds_of(found))}
    gone = {
        "score.json": {"whole_pass"},
        "evaluation.json": {"confusion", "accuracy_by_length"},
        "metrics.jsonl": {"loss"},
    }
    whole = {"accuracy_by_length", "confusion", "whole_pass", "loss", "timings"}
    assert shown == whole - gone.get(missing, set())
    assert page.render_page(found, [], [])


@pytest.mark.parametrize(
    ("damaged", "content", "said"),
    [
        ("species/run.json", "{", "not JSON"),
        ("species/metrics.jsonl", '{"step": 1}\n{"st', "line 2 is not JSON"),
        ("benchmarks/train/species.tsv", "nothing\n", "not a benchmark file"),
        ("stores/genomes/summary.json", None, "no summary"),
    ],
)
def test_damaged_results_get_one_sentence(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture, damaged: str, content: str | None, said: str
) -> None:
    (copy / damaged).unlink()
    if content is not None:
        (copy / damaged).write_text(content)
    with pytest.raises(InputError, match=said) as caught:
        read(copy, "species")
    assert damaged in str(caught.value)
    arguments = ["--folder", str(copy / "species"), "--store", str(copy / "stores/genomes")]
    arguments += ["--benchmarks", str(copy / "benchmarks"), "--config-dir", str(ROOT / "config")]
    out = tmp_path / "out"
    arguments += ["--figures", str(out / "figures"), "--out", str(out / "page.html"), "experiment=species"]
    assert page.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()


def test_steps_come_in_the_order_of_the_work(results: Path) -> None:
    names = [step.name for step in read_steps(results / "benchmarks", ["genomes", "species"])]
    assert names == [
        "prepare genomes",
        "train species",
        "evaluate species",
        "baselines species",
        "score species",
    ]


def test_a_step_too_short_to_be_watched_has_no_memory(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/x.tsv").write_text("s\th:m:s\tmax_rss\n0.01\t0:00:00\tNA\n")
    assert read_steps(tmp_path, ["x"]) == [Step("train x", 0.01, None)]


def test_summary_shows_every_experiment(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "summary.html"
    arguments = ["--results", str(results), "--out", str(out), "--config-dir", str(ROOT / "config"), *STORES]
    assert summary.main(arguments) == 0
    html = out.read_text()
    for said in ("94.8 %", "4.812 bits", "76.5 %", "99.914 %", "train speech", "Bacterial species from DNA"):
        assert said in html
    first = html
    assert summary.main(arguments) == 0
    assert out.read_text() == first
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_unknown_experiment_gets_one_sentence(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [
        "--results",
        str(results),
        "--out",
        str(tmp_path / "s.html"),
        "--config-dir",
        str(ROOT / "config"),
    ]
    assert summary.main([*arguments, "specie"]) == 2
    assert "nearest: species" in capsys.readouterr().err
    assert not (tmp_path / "s.html").exists()
