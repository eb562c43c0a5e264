"""Pages: made from result files alone, whole, the same every time, and holding all they show."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ssm_seq.config import compose
from ssm_seq.data.store import Range, Record
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


class Reports:
    """Reads and renders experiments of a results folder with the configuration in `config_dir`."""

    def __init__(self, config_dir: Path) -> None:
        self.config_dir = config_dir

    def read(self, results: Path, name: str, *overrides: str) -> Results:
        config = compose([f"experiment={name}", *overrides], self.config_dir)
        store = results / "stores" / STORES[name]
        return read_results(results / name, store, results / "benchmarks", config)

    def run(self, results: Path, name: str, out: Path) -> int:
        arguments = ["--folder", results / name, "--store", results / "stores" / STORES[name]]
        arguments += ["--benchmarks", results / "benchmarks", "--config-dir", self.config_dir]
        arguments += ["--figures", out / "figures", "--out", out / "page.html", f"experiment={name}"]
        return page.main([str(argument) for argument in arguments])

    def page(self, results: Path, name: str, out: Path) -> str:
        assert self.run(results, name, out) == 0
        return (out / "page.html").read_text()

    def summary(self, results: Path, out: Path, *names: str) -> int:
        arguments = ["--results", results, "--out", out, "--config-dir", self.config_dir, *names]
        return summary.main([str(argument) for argument in arguments])


@pytest.fixture
def reports(config_dir: Path) -> Reports:
    return Reports(config_dir)


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
    reports: Reports, results: Path, tmp_path: Path, name: str, figures: set[str]
) -> None:
    html = reports.page(results, name, tmp_path)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {f"{figure}.svg" for figure in figures}
    assert set(re.findall(r'<figure id="(\w+)">', html)) == figures
    assert html.count("<svg") == len(figures)
    captions = (ROOT / "workflows/report/figure.rst").read_text()
    assert all(f'"{figure}":' in captions for figure in figures)


@pytest.mark.parametrize("name", STORES)
def test_page_is_the_same_twice_and_needs_nothing_else(
    reports: Reports, results: Path, tmp_path: Path, name: str
) -> None:
    html = reports.page(results, name, tmp_path / "a")
    assert html == reports.page(results, name, tmp_path / "b")
    for figure in (tmp_path / "a/figures").iterdir():
        assert figure.read_bytes() == (tmp_path / "b/figures" / figure.name).read_bytes()
    links = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')\s>]+)', html)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_page_of_a_classifier_says_what_was_measured(reports: Reports, results: Path, tmp_path: Path) -> None:
    html = reports.page(results, "species", tmp_path)
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
    assert "window: 1000" in html  # the configuration
    assert "7da1d7a8e155050def9d754d7729348d0f44d32c" in html
    assert reports.read(results, "species").store.checksum in html
    assert "<audio" not in html


def test_page_of_sound_has_players(reports: Reports, results: Path, tmp_path: Path) -> None:
    html = reports.page(results, "speech", tmp_path)
    assert html.count("<audio controls") == 2
    assert "en/prompt3" in html  # the recording that the model went on from
    assert "after the first 0.5 s of it" in html
    assert reports.page(results, "language", tmp_path).count("<audio controls") == 5


def test_one_speaker_a_label_is_not_hidden(reports: Reports, results: Path) -> None:
    remarks = facts.remarks(reports.read(results, "language"))
    assert any("Each label has one speaker only" in remark and "speaker_en" in remark for remark in remarks)
    assert not any("Each label" in remark for remark in facts.remarks(reports.read(results, "species")))


def test_own_remark_takes_the_place_of_the_general_one(reports: Reports, results: Path) -> None:
    found = reports.read(results, "language", "remark='Mind the gap.'")
    assert facts.remarks(found) == ["Mind the gap."]


def test_a_store_that_changed_since_training_is_told(reports: Reports, copy: Path) -> None:
    run = json.loads((copy / "species/run.json").read_text())
    run["store"]["checksum"] = "0" * 64
    write_json(copy / "species/run.json", run)
    assert any(
        "not those that the model was trained on" in text
        for text in facts.remarks(reports.read(copy, "species"))
    )


def test_page_of_a_consensus(reports: Reports, results: Path, tmp_path: Path) -> None:
    html = reports.page(results, "lambda_consensus", tmp_path)
    for said in ("99.914 %", "47,706", "mean depth of 9.2 reads", "1,104"):
        assert said in html


def test_text_from_results_is_escaped(reports: Reports, copy: Path, tmp_path: Path) -> None:
    path = copy / "species/baselines.json"
    path.write_text(path.read_text().replace("majority class", "<script>alert(1)</script>"))
    html = reports.page(copy, "species", tmp_path)
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_generated_bases_are_shown(reports: Reports, copy: Path, tmp_path: Path) -> None:
    (copy / "species/generated").mkdir()
    (copy / "species/generated/generated.fa").write_text(">generated-0\nGATTACA\n")
    assert "GATTACA" in reports.page(copy, "species", tmp_path)


@pytest.mark.parametrize(
    "missing", ["score.json", "evaluation.json", "baselines.json", "metrics.jsonl", "run.json"]
)
def test_missing_results_leave_their_figures_out(reports: Reports, copy: Path, missing: str) -> None:
    (copy / "species" / missing).unlink()
    found = reports.read(copy, "species")
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
    reports: Reports,
    copy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    damaged: str,
    content: str | None,
    said: str,
) -> None:
    (copy / damaged).unlink()
    if content is not None:
        (copy / damaged).write_text(content)
    with pytest.raises(InputError, match=said) as caught:
        reports.read(copy, "species")
    assert damaged in str(caught.value)
    assert reports.run(copy, "species", tmp_path / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


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


def test_summary_shows_every_experiment(reports: Reports, results: Path, tmp_path: Path) -> None:
    out = tmp_path / "summary.html"
    assert reports.summary(results, out, *STORES) == 0
    html = out.read_text()
    for said in ("94.8 %", "4.812 bits", "76.5 %", "99.914 %", "train speech", "Bacterial species from DNA"):
        assert said in html
    assert reports.summary(results, out, *STORES) == 0
    assert out.read_text() == html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_unknown_experiment_gets_one_sentence(
    reports: Reports, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture
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


def test_what_the_bootstrap_draws_is_said(reports: Reports, results: Path) -> None:
    found = reports.read(results, "species")
    one, two = (Record(name, 0, 9, "a", ranges=(Range(0, 9, "test"),)) for name in "12")
    other = replace(one, name="3", label="b")
    for records, expected in (
        ([one, two], "whole records"),
        ([one, other], "windows, as each label has one test record"),
        ([one, two, other], "whole records, or windows where a label has one test record"),
    ):
        found.store.records = records
        assert found.resampled == expected
