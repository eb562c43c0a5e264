"""The figure of scored variants from their table."""

import pytest

from ssm_seq.reporting.variants_figure import main

HEAD = "contig\tposition\tref\talt\tllr\n"
TABLE = HEAD + "c\t1\tA\tG\t-1.5\nc\t2\tA\tAT\t0.5\nc\t3\tAC\tA\t2\nc\t9\tA\tC\t0.1\n"


def test_kinds_are_told_apart(tmp_path):
    (tmp_path / "in.tsv").write_text(TABLE)
    assert main([str(tmp_path / "in.tsv"), str(tmp_path / "out.svg")]) == 0
    picture = (tmp_path / "out.svg").read_text()
    assert all(text in picture for text in ("substitution: 2", "insertion: 1", "deletion: 1"))


def test_a_table_without_variants_is_drawn_empty(tmp_path):
    (tmp_path / "in.tsv").write_text(HEAD)
    assert main([str(tmp_path / "in.tsv"), str(tmp_path / "out.svg")]) == 0


@pytest.mark.parametrize("text, expected", [(None, "no such table"), (TABLE.replace("llr", "x"), "'llr'")])
def test_another_file_is_refused(tmp_path, capsys, text, expected):
    if text:
        (tmp_path / "in.tsv").write_text(text)
    assert main([str(tmp_path / "in.tsv"), str(tmp_path / "out.svg")]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out.svg").exists()
