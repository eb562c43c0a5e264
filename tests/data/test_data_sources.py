"""Every way a source comes to disk, and that a wrong or broken one leaves nothing that looks finished."""

import hashlib
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from ssm_seq.data import sources
from ssm_seq.data.sources import fetch, main, read_sources
from ssm_seq.errors import InputError

BODY = bytes(range(256)) * 4096  # 1 MiB


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def listed(tmp: Path, /, **entries: dict[str, str]) -> Path:
    file = tmp / "sources.yaml"
    file.write_text(yaml.safe_dump(entries))
    return file


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


class Server(ThreadingHTTPServer):
    """Serves `body` at /file; `ranges` off ignores Range; the first `breaks` answers stop half-way."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.ranges = True
        self.breaks = 0
        self.failures = 0
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers["Range"]
        server.asked.append(asked)
        if self.path != "/file":
            return self.send_error(404)
        if server.failures:
            server.failures -= 1
            return self.send_error(503)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start >= len(server.body):
            return self.send_error(416)
        self.send_response(206 if asked and server.ranges else 200)
        if asked and server.ranges:
            size = len(server.body)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        rest = server.body[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("Content-Encoding", "gzip")  # as some servers say of .gz files: must not be undone
        self.end_headers()
        if server.breaks:
            server.breaks -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(sources, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(sources, "TIMEOUT_SECONDS", (5, 5))
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def remote(tmp_path: Path, server: Server) -> Path:
    return listed(tmp_path, remote={"url": server.url, "sha256": digest(BODY)})


# HTTP


def test_download(remote: Path, server: Server, tmp_path: Path) -> None:
    fetch("remote", tmp_path / "out" / "file", remote)
    assert (tmp_path / "out" / "file").read_bytes() == BODY
    assert left_in(tmp_path / "out") == ["file"]
    assert server.asked == [None]


def test_broken_connection_is_resumed_at_once(remote: Path, server: Server, tmp_path: Path) -> None:
    server.breaks = 1
    fetch("remote", tmp_path / "out" / "file", remote)
    assert (tmp_path / "out" / "file").read_bytes() == BODY
    assert server.asked == [None, f"bytes={len(BODY) // 2}-"]


def test_next_call_goes_on_where_the_last_one_gave_up(remote: Path, server: Server, tmp_path: Path) -> None:
    server.breaks = sources.ATTEMPTS
    with pytest.raises(InputError, match=r"3 attempts.*917504 bytes are kept"):
        fetch("remote", tmp_path / "out" / "file", remote)
    assert [name.endswith(".partial") for name in left_in(tmp_path / "out")] == [True]
    server.asked.clear()
    fetch("remote", tmp_path / "out" / "file", remote)
    assert server.asked == ["bytes=917504-"]
    assert (tmp_path / "out" / "file").read_bytes() == BODY
    assert left_in(tmp_path / "out") == ["file"]


def test_download_was_complete_but_not_yet_named(remote: Path, server: Server, tmp_path: Path) -> None:
    partial = tmp_path / f".file.{digest(BODY)[:16]}.partial"
    partial.write_bytes(BODY)
    fetch("remote", tmp_path / "file", remote)
    assert (tmp_path / "file").read_bytes() == BODY
    assert not partial.exists()


def test_server_without_ranges_starts_again(remote: Path, server: Server, tmp_path: Path) -> None:
    server.breaks, server.ranges = 1, False
    fetch("remote", tmp_path / "file", remote)
    assert (tmp_path / "file").read_bytes() == BODY


def test_half_of_another_version_is_not_kept(remote: Path, tmp_path: Path, server: Server) -> None:
    (tmp_path / f".file.{digest(BODY)[:16]}.partial").write_bytes(b"of last year")
    fetch("remote", tmp_path / "file", remote)
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.asked == ["bytes=12-", None]


def test_corrupted_download_is_removed_and_both_checksums_told(
    remote: Path, server: Server, tmp_path: Path
) -> None:
    server.body = BODY[:-1] + b"?"
    with pytest.raises(InputError) as caught:
        fetch("remote", tmp_path / "out" / "file", remote)
    assert digest(BODY) in str(caught.value)
    assert digest(server.body) in str(caught.value)
    assert left_in(tmp_path / "out") == []


def test_corrupted_download_keeps_what_was_there(remote: Path, server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    server.body = b"wrong"
    with pytest.raises(InputError):
        fetch("remote", tmp_path / "file", remote)
    assert (tmp_path / "file").read_text() == "before"


def test_not_found(server: Server, tmp_path: Path) -> None:
    entries = listed(tmp_path, gone={"url": f"{server.url}/gone", "sha256": digest(BODY)})
    with pytest.raises(InputError, match="the server answers 404 Not Found"):
        fetch("gone", tmp_path / "out" / "file", entries)
    assert len(server.asked) == 1
    assert left_in(tmp_path / "out") == []


def test_busy_server_is_asked_again(remote: Path, server: Server, tmp_path: Path) -> None:
    server.failures = 2
    fetch("remote", tmp_path / "file", remote)
    assert (tmp_path / "file").read_bytes() == BODY


def test_nobody_listens(server: Server, tmp_path: Path) -> None:
    entries = listed(tmp_path, off={"url": "http://127.0.0.1:1/file", "sha256": digest(BODY)})
    with pytest.raises(InputError, match=r"could not be downloaded in 3 attempts \(ConnectionError\)"):
        fetch("off", tmp_path / "out" / "file", entries)
    assert left_in(tmp_path / "out") == []


# local files and archives


def test_local_file_relative_to_the_list(tmp_path: Path) -> None:
    (tmp_path / "here.txt").write_text("text")
    fetch("local", tmp_path / "out", listed(tmp_path, local={"path": "here.txt"}))
    assert (tmp_path / "out").read_text() == "text"
    assert (tmp_path / "here.txt").exists()


def test_local_file_missing_or_changed(tmp_path: Path) -> None:
    entries = listed(tmp_path, gone={"path": "gone"}, other={"path": "here", "sha256": digest(b"a")})
    (tmp_path / "here").write_bytes(b"b")
    with pytest.raises(InputError, match="there is no file"):
        fetch("gone", tmp_path / "out", entries)
    with pytest.raises(InputError, match="wrong checksum"):
        fetch("other", tmp_path / "out", entries)
    assert not (tmp_path / "out").exists()


def tar(file: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str) -> None:
    with tarfile.open(file, mode) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, link, mode
    return entry


GOOD = [
    (info("./data", tarfile.DIRTYPE), b""),
    (info("./data/a.txt"), b"a"),
    (info("./data/deep/b.sh", mode=0o4777), b"b"),
    (info("./database/c.txt"), b"c"),
]


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz", "tar.bz2", "zip"])
def test_members_of_archives(tmp_path: Path, ending: str) -> None:
    archive = tmp_path / f"archive.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for entry, content in GOOD:
                name = entry.name.removeprefix("./")
                wrapped = zipfile.ZipInfo(name + "/" if entry.isdir() else name)
                wrapped.external_attr = (stat.S_IFDIR if entry.isdir() else stat.S_IFREG | entry.mode) << 16
                zipped.writestr(wrapped, content)
    else:
        tar(archive, GOOD, "w" if ending == "tar" else f"w:{ending.removeprefix('tar.')}")
    entries = listed(
        tmp_path,
        folder={"path": archive.name, "member": "data/"},
        whole={"path": archive.name, "member": "./"},
        file={"path": archive.name, "member": "data/deep/b.sh"},
        gone={"path": archive.name, "member": "data/deep/b"},
        empty={"path": archive.name, "member": "dat/"},
    )
    fetch("folder", tmp_path / "folder", entries)
    files = {str(path.relative_to(tmp_path / "folder")) for path in (tmp_path / "folder").rglob("*.*")}
    assert files == {"a.txt", "deep/b.sh"}
    assert stat.S_IMODE((tmp_path / "folder/deep/b.sh").stat().st_mode) == 0o755
    fetch("whole", tmp_path / "whole", entries)
    assert (tmp_path / "whole/database/c.txt").read_bytes() == b"c"
    fetch("file", tmp_path / "file", entries)
    assert (tmp_path / "file").read_bytes() == b"b"
    for name in ("gone", "empty"):
        with pytest.raises(InputError, match="the archive has no"):
            fetch(name, tmp_path / name, entries)
        assert not (tmp_path / name).exists()


def test_a_second_name_beside_a_file_is_left_out(tmp_path: Path) -> None:
    """Packages have such links: the file itself is there."""
    link = info("./data/a.old", tarfile.SYMTYPE, "a.txt")
    tar(tmp_path / "archive.tar", [*GOOD, (link, b"")], "w")
    entries = listed(
        tmp_path,
        folder={"path": "archive.tar", "member": "data/"},
        link={"path": "archive.tar", "member": "data/a.old"},
    )
    fetch("folder", tmp_path / "folder", entries)
    assert left_in(tmp_path / "folder") == ["a.txt", "deep"]
    with pytest.raises(InputError, match="is not a plain file"):
        fetch("link", tmp_path / "link", entries)


HOSTILE = {
    "up": [(info("data/link", tarfile.SYMTYPE, ".."), b"")],
    "nowhere": [(info("data/link", tarfile.SYMTYPE, "gone"), b"")],
    "a folder": [(info("data/link", tarfile.SYMTYPE, "deep"), b""), (info("data/deep/b"), b"")],
    "parent": [(info("data/../../escaped"), b"x")],
    "absolute": [(info("{absolute}"), b"x")],
    "symlink": [(info("data/link", tarfile.SYMTYPE, "{outside}"), b"")],
    "through a symlink": [
        (info("data/link", tarfile.SYMTYPE, "{outside}"), b""),
        (info("data/link/escaped"), b"x"),
    ],
    "hard link": [(info("data/link", tarfile.LNKTYPE, "{outside}/secret"), b"")],
    "pipe": [(info("data/pipe", tarfile.FIFOTYPE), b"")],
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("member", ["data/", "data/link", "./"])
def test_members_cannot_leave_their_folder(tmp_path: Path, kind: str, member: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    names = {"absolute": str(outside / "escaped"), "outside": str(outside)}
    members = [(info("data/good"), b"good")]
    for entry, content in HOSTILE[kind]:
        name, link = entry.name.format(**names), entry.linkname.format(**names)
        members.append((info(name, entry.type, link), content))
    tar(tmp_path / "hostile.tar", members, "w")
    entries = listed(tmp_path, hostile={"path": "hostile.tar", "member": member})
    with pytest.raises(InputError, match=r"leads out of its folder|is not a plain file|has no member"):
        fetch("hostile", tmp_path / "out" / "it", entries)
    assert left_in(tmp_path / "out") == []
    assert left_in(outside) == ["secret"]
    assert not (tmp_path / "escaped").exists()
    assert left_in(tmp_path) == ["hostile.tar", "out", "outside", "sources.yaml"]


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "link"])
def test_zip_members_cannot_leave_their_folder(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "hostile.zip", "w") as zipped:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = (stat.S_IFLNK if name == "link" else stat.S_IFREG | 0o644) << 16
        zipped.writestr(entry, "/etc/passwd")
    entries = listed(tmp_path, hostile={"path": "hostile.zip", "member": "./"})
    with pytest.raises(InputError, match=r"leads out of its folder|is not a plain file"):
        fetch("hostile", tmp_path / "out" / "it", entries)
    assert left_in(tmp_path / "out") == []


@pytest.mark.parametrize("ending", ["tar.gz", "tar.xz", "zip"])
def test_damaged_archive(tmp_path: Path, ending: str) -> None:
    archive = tmp_path / f"archive.{ending}"
    noise = os.urandom(100_000)
    if ending == "zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr("data/a", noise)
    else:
        tar(archive, [(info("data/a"), noise)], f"w:{ending.removeprefix('tar.')}")
    archive.write_bytes(archive.read_bytes()[:50_000])
    for member in ("data/", "data/a"):
        entries = listed(tmp_path, damaged={"path": archive.name, "member": member})
        with pytest.raises(InputError, match="not a whole tar, zip or Debian archive"):
            fetch("damaged", tmp_path / "out" / "it", entries)
        assert left_in(tmp_path / "out") == []


# Debian packages: apt-get is played by a script, dpkg-deb is the real one


@pytest.fixture
def archive_of_debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An apt-get that knows one package, `tiny`; gives the package's checksum."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: tiny\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: x\n"
    )
    (tree / "usr/share/tiny/deep").mkdir(parents=True)
    (tree / "usr/share/tiny/a.txt").write_text("a")
    (tree / "usr/share/tiny/deep/b.txt").write_text("b")
    (tree / "usr/share/tiny/link").symlink_to("/etc/passwd")
    package = tmp_path / "tiny_1_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", tree, package], check=True, capture_output=True
    )
    shutil.rmtree(tree)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "apt-get").write_text(
        f'#!/bin/sh\nfor name; do :; done\n[ "$name" = tiny ] && exec cp "{package}" .\n'
        'echo "E: Unable to locate package $name" >&2; exit 100\n'
    )
    (programs / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return digest(package.read_bytes())


def test_member_of_a_debian_package(tmp_path: Path, archive_of_debian: str) -> None:
    package = {"debian": "tiny", "sha256": archive_of_debian}
    entries = listed(
        tmp_path,
        package=package,
        file=package | {"member": "usr/share/tiny/a.txt"},
        folder=package | {"member": "usr/share/tiny/deep/"},
        link=package | {"member": "usr/share/tiny/link"},
        gone=package | {"member": "usr/share/tiny/gone"},
    )
    out = tmp_path / "out"
    fetch("file", out / "a.txt", entries)
    assert (out / "a.txt").read_text() == "a"
    fetch("folder", out / "deep", entries)
    assert left_in(out / "deep") == ["b.txt"]
    fetch("package", out / "tiny.deb", entries)
    assert digest((out / "tiny.deb").read_bytes()) == archive_of_debian
    for name, reason in (("link", "is not a plain file"), ("gone", "has no member")):
        with pytest.raises(InputError, match=reason):
            fetch(name, out / name, entries)
    assert left_in(out) == ["a.txt", "deep", "tiny.deb"]


def test_unknown_or_changed_package(tmp_path: Path, archive_of_debian: str) -> None:
    entries = listed(
        tmp_path,
        unknown={"debian": "no-such-package", "sha256": archive_of_debian},
        changed={"debian": "tiny", "sha256": digest(b"older")},
    )
    with pytest.raises(InputError, match="Unable to locate package no-such-package"):
        fetch("unknown", tmp_path / "out" / "it", entries)
    with pytest.raises(InputError, match=rf"wrong checksum of tiny_1_all.deb.*found {archive_of_debian}"):
        fetch("changed", tmp_path / "out" / "it", entries)
    assert left_in(tmp_path / "out") == []


def test_truncated_package(tmp_path: Path, archive_of_debian: str) -> None:
    package = tmp_path / "tiny_1_all.deb"
    package.write_bytes(package.read_bytes()[:-20])
    entries = listed(tmp_path, cut={"path": package.name, "member": "usr/share/tiny/deep/"})
    with pytest.raises(InputError, match="not a whole tar, zip or Debian archive"):
        fetch("cut", tmp_path / "out" / "it", entries)
    assert left_in(tmp_path / "out") == []


def test_system_without_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    entries = listed(tmp_path, package={"debian": "tiny", "sha256": digest(b"")})
    with pytest.raises(InputError, match="apt-get is not on this system"):
        fetch("package", tmp_path / "out" / "it", entries)


# the list


def test_unknown_name_tells_the_nearest(tmp_path: Path) -> None:
    entries = listed(tmp_path, genomes={"path": "a"}, prompts={"path": "b"})
    with pytest.raises(InputError, match="no source 'genome'; nearest: genomes"):
        fetch("genome", tmp_path / "out", entries)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"path": "a", "url": "http://b"}, "exactly one of path, url, debian"),
        ({"member": "a"}, "exactly one of path, url, debian"),
        ({"url": "http://b"}, "needs its sha256"),
        ({"url": "ftp://b", "sha256": "0" * 64}, "an http or https address"),
        ({"debian": "--option", "sha256": "0" * 64}, "no name of a Debian package"),
        ({"path": "a", "sha256": "abc"}, "64 lower-case hexadecimal digits"),
        ({"path": "a", "md5": "abc"}, "unknown key 'md5'"),
        ({"path": 1}, "text values"),
        ("a", "text values"),
    ],
)
def test_wrong_entry(tmp_path: Path, entry: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_sources(listed(tmp_path, entry=entry))


def test_list_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        read_sources(tmp_path / "gone.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InputError, match="not valid YAML"):
        read_sources(tmp_path / "bad.yaml")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "here").write_text("text")
    entries = listed(tmp_path, local={"path": "here"})
    assert main(["local", str(tmp_path / "out"), "--sources", str(entries)]) == 0
    assert (tmp_path / "out").read_text() == "text"
    assert main(["remote", str(tmp_path / "no"), "--sources", str(entries)]) == 2
    assert capsys.readouterr().err == f"{entries}: there is no source 'remote'; known: local\n"


def test_disk_full(tmp_path: Path) -> None:
    """/dev/full stands in for a full disk: every write to it fails with ENOSPC."""
    (tmp_path / "here").write_bytes(BODY)
    entries = listed(tmp_path, local={"path": "here"})
    code = (
        "import pathlib, shutil, sys\n"
        "from ssm_seq.data import sources\n"
        "shutil.copyfile = lambda source, target: open('/dev/full', 'wb', 0).write(b'x')\n"
        "sys.exit(sources.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "local", tmp_path / "out" / "it", "--sources", entries],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert left_in(tmp_path / "out") == []
