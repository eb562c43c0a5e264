"""Files appear whole or not at all; a folder has one run."""

import subprocess
import sys

import pytest

from ssm_seq.errors import InputError
from ssm_seq.files import only_run_in, sha256, whole_directory, whole_file, write_json


def names(directory):
    return [path.name for path in directory.iterdir()]


def test_a_file_takes_its_name_only_after_the_block(tmp_path):
    with whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("new")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_directory_replaces_the_old_one_as_a_whole(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").touch()
    with whole_directory(tmp_path / "d", "old") as partial:
        (partial / "new").touch()
        assert (tmp_path / "d" / "old").exists()
    assert names(tmp_path / "d") == ["new"]
    assert names(tmp_path) == ["d"]


def test_an_error_leaves_the_old_directory_and_nothing_else(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").touch()
    with pytest.raises(ZeroDivisionError), whole_directory(tmp_path / "d", "old") as partial:
        (partial / "new").touch()
        raise ZeroDivisionError
    assert names(tmp_path / "d") == ["old"]
    assert names(tmp_path) == ["d"]


def test_somebody_elses_folder_or_file_is_never_replaced(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_text("all of it")
    (tmp_path / "f").touch()
    for path, marker in (("d", ""), ("d", "index.json"), ("f", "index.json")):
        with pytest.raises(InputError, match="choose another"), whole_directory(tmp_path / path, marker):
            pass
    assert (tmp_path / "d" / "thesis.txt").read_text() == "all of it"
    assert sorted(names(tmp_path)) == ["d", "f"]


@pytest.mark.parametrize("whole", [whole_file, whole_directory])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, whole):
    code = (
        "import os, sys\nfrom ssm_seq import files\n"
        "with getattr(files, sys.argv[1])(sys.argv[2]) as partial:\n"
        "    (partial / 'x' if partial.is_dir() else partial).touch()\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, whole.__name__, str(tmp_path / "result")], check=False)
    assert len(names(tmp_path)) == 1
    with whole(tmp_path / "result") as partial, whole(tmp_path / "result-2") as other:
        for path in (partial, other):
            (path / "x" if path.is_dir() else path).touch()
        assert len(names(tmp_path)) == 2
    assert sorted(names(tmp_path)) == ["result", "result-2"]


def test_sha256_of_a_known_text(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    # printf '{\n  "a": 1\n}\n' | sha256sum
    assert sha256(tmp_path / "a.json") == "5e36b6560513586ced65eca0e8b025fe88edbcab82ba2cb67a5fcb2d7b202383"


def test_two_runs_in_one_folder(tmp_path):
    code = (
        "import sys, time\nfrom ssm_seq.files import only_run_in\n"
        "with only_run_in(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another run is writing here"), only_run_in(tmp_path):
        pass
    other.kill()  # SIGKILL: the lock must go with the process
    other.wait()
    with only_run_in(tmp_path):
        pass
