"""The sample sheet: what it may say, and each mistake with its row."""

import subprocess
import sys

import pytest

from ssm_seq.data.samples import read_samples
from ssm_seq.errors import InputError


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "a.fa",
        "b.fa",
        "clips/en/two.v1.wav",
        "clips/en/one.wav",
        "clips/es/one.wav",
        "clips/en/.hidden.wav",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    return tmp_path


def sheet(project, text, name="sheet.tsv"):
    (project / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return read_samples(name)


def test_a_full_sheet(project):
    one, two = sheet(
        project, "sample\tpath\tlabel\tgroup\tsplit\ns1\ta.fa\tx\tg1\ttrain\n\ns2\tb.fa\ty\t\t\n"
    )
    assert (one.name, one.files, one.label, one.group, one.split, one.row) == (
        "s1",
        ("a.fa",),
        "x",
        "g1",
        "train",
        2,
    )
    assert (two.name, two.files, two.label, two.group, two.split, two.row) == (
        "s2",
        ("b.fa",),
        "y",
        None,
        None,
        4,
    )


@pytest.mark.parametrize("text", ["path,sample\r\na.fa,s\r\n", "\ufeffpath,sample\n a.fa , s \n"])
def test_commas_any_order_of_columns_and_what_spreadsheets_write(project, text):
    (only,) = sheet(project, text, "sheet.csv")
    assert (only.name, only.files, only.label) == ("s", ("a.fa",), None)


def test_a_pattern_is_many_files_in_the_order_of_their_names(project):
    (clips,) = sheet(project, "sample\tpath\nen\tclips/en/*.wav\n")
    assert clips.files == ("clips/en/one.wav", "clips/en/two.v1.wav") and clips.parts == ("one", "two.v1")
    (clips,) = sheet(project, "sample\tpath\nall\tclips/*/one.wav\n")
    assert clips.parts == ("en/one", "es/one")
    (clips,) = sheet(project, f"sample\tpath\nall\t{project}/clips/**/*.wav\n")
    assert clips.parts == ("en/one", "en/two.v1", "es/one")
    assert clips.files[0] == str(project / "clips/en/one.wav")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "empty"),
        ("sample\tpath\n", "empty"),
        ("sample\tfile\ns\ta.fa\n", "unknown column 'file'"),
        ("sample\tpath\tlabels\ns\ta.fa\tx\n", "unknown column 'labels'; nearest: label"),
        ("sample\tpath\tlabel\tlabel\ns\ta.fa\tx\ty\n", "'label' occurs twice"),
        ("sample\tlabel\ns\tx\n", "column 'path' is missing"),
        ("sample,path\ns,a.fa\n", "unknown column 'sample,path'; nearest: sample"),
        ("sample\tpath\ns\ta.fa\textra\n", "row 2 has 3 cells, the header 2"),
        ("sample\tpath\n\ta.fa\n", "row 2 has no sample name"),
        ("sample\tpath\ns\ta.fa\nt\t\n", "row 3 has no path"),
        ("sample\tpath\ns\ta.fa\nt\tnone.fa\n", "row 3: there is no file none.fa"),
        ("sample\tpath\ns\tclips/*.fa\n", r"row 2: there is no file clips/\*\.fa"),
        ("sample\tpath\ns\tclips\n", "row 2: there is no file clips"),
        ("sample\tpath\ns\ta.fa\ns\tb.fa\n", "rows 2 and 3 have the same sample name 's'"),
        ("sample\tpath\tsplit\ns\ta.fa\tTrain\n", "row 2 has the split 'Train'; expected train, valid, test"),
        ("sample\tpath\tlabel\ns\ta.fa\tx\nt\tb.fa\t\n", r"row 3 \(t\) has no label"),
        (b"sample\tpath\n\xff\ta.fa\n", "UTF-8"),
    ],
)
def test_mistakes_are_named_with_their_row(project, text, message):
    with pytest.raises(InputError, match=f"^sheet.tsv: .*{message}"):
        sheet(project, text)


def test_a_missing_sheet(project):
    with pytest.raises(InputError, match=r"none\.tsv: the sample sheet can't be read \(No such file"):
        read_samples("none.tsv")


def test_the_snakefile_can_read_sheets_without_torch():
    code = "import ssm_seq.data.samples, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
