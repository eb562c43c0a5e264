"""The command line as a person meets it: help at once, one sentence for mistakes, exit code 2."""

import subprocess
import sys
import time

import pytest

from ssm_seq.commands.cli import SUMMARIES, main


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ssm_seq.commands.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_answers_at_once_and_names_every_command():
    start = time.perf_counter()
    result = run("--help")
    assert time.perf_counter() - start < 3  # importing torch alone takes longer on a slow disk
    assert result.returncode == 0
    assert all(command in result.stdout for command in SUMMARIES)


@pytest.mark.parametrize("command", SUMMARIES)
def test_each_command_explains_its_paths(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "--out" in shown and "exit code 2" in shown
    assert ("key=value" in shown) == (command not in ("convert", "bench"))


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["prepare", "--out", "{tmp}/s", "experiment=spcies"], "nearest: species"),
        (["prepare", "--out", "{tmp}/s", "experiment=species", "data.windw=3"], "nearest: data.window"),
        (["prepare", "--out", "{tmp}/s", "--samples", "{tmp}/no.tsv", "experiment=species"], "no.tsv"),
        (["train", "--store", "{tmp}/none", "--out", "{tmp}/o", "experiment=species"], "{tmp}/none"),
        (["evaluate", "--store", "{tmp}/none", "--out", "{tmp}/o", "--baselines"], "{tmp}/none"),
        (["evaluate", "--store", "{tmp}/none", "--out", "{tmp}/o"], "--model"),
        (["score", "--model", "{tmp}/none", "--input", "{tmp}/x.fa", "--out", "{tmp}/o"], "{tmp}/none"),
        (["generate", "--model", "{tmp}/none", "--out", "{tmp}/o"], "generate.length"),
        (["generate", "--model", "{tmp}/none", "--out", "{tmp}/o", "generate.length=3"], "{tmp}/none"),
        (["convert", "--model", "{tmp}/none", "--out", "{tmp}/o", "--layout", "mamba_ssm"], "{tmp}/none"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, expected, tmp_path, capsys):
    assert main([item.format(tmp=tmp_path) for item in arguments]) == 2
    shown = capsys.readouterr().err
    assert expected.format(tmp=tmp_path) in shown
    assert shown.count("\n") == 1 and "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--stroe", "x"],
        ["convert", "--model", "m", "--out", "o", "--layout", "gguf"],
        ["bench", "--only", "scann"],
        ["bench", "optim.steps=3"],
        ["convert", "--model", "m", "--out", "o", "--layout", "ssm_seq", "optim.steps=3"],
    ],
)
def test_an_unknown_option_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
