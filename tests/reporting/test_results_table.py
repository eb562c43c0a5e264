"""Measured results as Markdown and as a figure; the README's tables are those of docs/results."""

import json
import re
import runpy
from pathlib import Path

import pytest

from ssm_seq.errors import InputError
from ssm_seq.reporting.results_table import fill_tables, main, markdown_table, read_result, results_figure
from ssm_seq.reporting.style import to_svg

ROOT = Path(__file__).parents[2]
RESULT = {
    "what": "The demo",
    "command": "make demo",
    "commit": "7da1d7a8e155050def9d754d7729348d0f44d32c",
    "date": "2026-11-22",
    "hardware": "two cores",
    "software": "torch 2.11.0",
    "records": [
        {"name": "species", "value": 0.94812, "unit": "", "low": 0.93, "high": 0.96, "target": 0.9,
         "peer": "4-mer", "peer_value": 0.921},
        {"name": "whole pass", "value": 73_400.4, "unit": "bases/s"},
    ],
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "demo.json").write_text(json.dumps(RESULT))
    return tmp_path / "demo.json"


def test_table(path: Path) -> None:
    lines = markdown_table(read_result(path)).splitlines()
    assert lines[0] == "|  | measured | interval | target | beside it |"
    assert lines[2] == "| species | 0.9481 | 0.93–0.96 | 0.9 | 4-mer: 0.921 |"
    assert lines[3] == "| whole pass | 73,400 bases/s |  |  |  |"
    assert lines[5] == "The demo: `make demo`, two cores, 2026-11-22, commit 7da1d7a8e155."


def test_columns_without_a_value_are_left_out(path: Path) -> None:
    plain = RESULT | {"records": RESULT["records"][1:]}
    assert markdown_table(plain).splitlines()[0] == "|  | measured |"


def test_figure_is_written_beside_and_is_the_same_twice(path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(path)]) == 0
    assert "| species |" in capsys.readouterr().out
    svg = path.with_suffix(".svg").read_text()
    assert svg == to_svg(results_figure, RESULT)
    assert "species: 0.9481" in svg and "ring: peer" in svg


def test_marked_tables_are_filled_again_and_again(path: Path) -> None:
    readme = path.with_name("README.md")
    readme.write_text("before\n<!-- table: demo.json -->\nold\n<!-- end -->\nafter\n")
    assert main(["--into", str(readme)]) == 0
    once = readme.read_text()
    assert once.startswith("before\n<!-- table: demo.json -->\n\n|  | measured")
    assert once.endswith("<!-- end -->\nafter\n")
    assert "old" not in once
    assert fill_tables(once, readme.parent) == once


def test_targets_alone_if_the_mark_asks(path: Path) -> None:
    readme = path.with_name("README.md")
    readme.write_text(
        "<!-- table: demo.json targets -->\n<!-- end -->\n\n<!-- table: demo.json -->\n<!-- end -->\n"
    )
    assert main(["--into", str(readme)]) == 0
    first, second = readme.read_text().split("<!-- end -->\n\n")
    assert "| species |" in first and "| species |" in second
    assert "whole pass" not in first and "whole pass" in second


def test_failures_floors_and_where_peers_come_from(path: Path) -> None:
    failed = {"name": "4 M", "value": None, "unit": "ms", "failed": "out of memory", "peer": "x: no answer"}
    timed = {
        "name": "scan",
        "value": 3.0,
        "unit": "ms",
        "floor": 2.0,
        "peer": "x (recorded)",
        "peer_value": 9,
    }
    result = RESULT | {"records": [failed, timed], "peers": "Recorded on 2026-11-22"}
    path.write_text(json.dumps(result))
    lines = markdown_table(read_result(path)).splitlines()
    assert lines[0] == "|  | measured | floor | beside it |"
    assert lines[2] == "| 4 M | out of memory |  | x: no answer |"
    assert lines[3] == "| scan | 3 ms | 2 ms | x (recorded): 9 ms |"
    assert lines[5].endswith("commit 7da1d7a8e155. Recorded on 2026-11-22.")
    assert "scan: 3" in to_svg(results_figure, result) and "4 M" not in to_svg(results_figure, result)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("{", "not JSON"),
        (json.dumps({**RESULT, "records": [{"name": "x"}]}), "record 0: value, unit missing"),
        (json.dumps({"what": "x"}), "command, commit, date, hardware, software, records missing"),
    ],
)
def test_bad_results_get_one_sentence(path: Path, content: str | None, said: str) -> None:
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=said):
        read_result(path)
    assert main([str(path)]) == 2


def test_the_readme_has_the_tables_of_the_results() -> None:
    text = (ROOT / "README.md").read_text()
    assert set(re.findall(r"<!-- table: (\S+)", text)) == {
        f"docs/results/{name}.json"
        for name in ("demo_cpu", "kernels_h100", "kernels_cpu", "lti_scan_h100", "s4_kernel_h100")
    }


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
)
def test_pages_are_as_fresh_as_the_results(page: str) -> None:
    text = (ROOT / page).read_text()
    fresh = fill_tables(text, (ROOT / page).parent)
    assert fresh == text, f"python -m ssm_seq.reporting.results_table --into {page}"


def test_figure_of_the_kernels_is_as_fresh_as_the_results() -> None:
    folder = ROOT / "docs/results"
    script = runpy.run_path(str(folder / "kernels_by_length.py"))
    records = read_result(folder / "kernels_h100.json")["records"]
    drawn = to_svg(script["by_length"], records)
    assert drawn == (folder / "kernels_by_length.svg").read_text(), "python docs/results/kernels_by_length.py"
