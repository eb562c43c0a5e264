"""Data by name: `data/sources.yaml` says where it comes from, `fetch` brings it to disk.

    python -m ssm_seq.data.sources NAME DESTINATION

A source is one of

    {path: FILE}                      a local file, relative to the YAML file's folder
    {url: http(s)://..., sha256: ...}
    {debian: PACKAGE, sha256: ...}    the package that `apt-get download` brings

`sha256` is that of the file which arrives. With `member: NAME` that file is an archive (tar, zip, Debian
package) of which only the member is kept; a name that ends in a slash is a folder with all that lies in it.
What is asked for appears at its destination whole and verified, or not at all.
"""

import argparse
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

import requests
import urllib3
import yaml

from ssm_seq.errors import InputError
from ssm_seq.files import sha256, whole_directory, whole_file

SOURCES = Path("data/sources.yaml")
ATTEMPTS = 3
PAUSE_SECONDS = 1.0
TIMEOUT_SECONDS = (10, 60)  # to connect; between two bytes
CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """One entry of the YAML file; exactly one of path, url, debian is set."""

    name: str
    path: str | None = None
    url: str | None = None
    debian: str | None = None
    sha256: str | None = None
    member: str | None = None

    @property
    def is_folder(self) -> bool:
        return self.member is not None and self.member.endswith("/")


def read_sources(file: Path | str = SOURCES) -> dict[str, Source]:
    """The entries of a sources file by name.

    Raises:
        InputError: the file is missing or no YAML, or an entry doesn't say exactly one origin in known keys.
    """
    file = Path(file)
    try:
        entries = yaml.safe_load(file.read_text())
    except OSError as error:
        raise InputError(f"{file}: the list of sources can't be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(entries, dict):
        raise InputError(f"{file}: expected a mapping from names to sources")
    return {str(name): _source(file, str(name), entry) for name, entry in entries.items()}


def _source(file: Path, name: str, entry: object) -> Source:
    known = [field.name for field in fields(Source) if field.name != "name"]
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise InputError(f"{file}: source {name}: expected text values for some of {', '.join(known)}")
    for key in entry:
        if key not in known:
            raise InputError(f"{file}: source {name}: unknown key {key!r}; known: {', '.join(known)}")
    source = Source(name, **entry)
    if sum(origin is not None for origin in (source.path, source.url, source.debian)) != 1:
        raise InputError(f"{file}: source {name}: expected exactly one of path, url, debian")
    if source.url is not None and not re.match(r"https?://", source.url):
        raise InputError(f"{file}: source {name}: expected an http or https address, found {source.url!r}")
    if source.debian is not None and not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", source.debian):
        raise InputError(f"{file}: source {name}: {source.debian!r} is no name of a Debian package")
    if source.sha256 is None and source.path is None:
        raise InputError(f"{file}: source {name}: what is downloaded needs its sha256")
    if source.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", source.sha256):
        raise InputError(f"{file}: source {name}: expected 64 lower-case hexadecimal digits as sha256")
    return source


def fetch(name: str, destination: Path | str, sources_file: Path | str = SOURCES) -> None:
    """Bring the source `name` to `destination`: a file, or a folder if its member is one.

    A download that breaks off is resumed, by this call and by the next one: its bytes wait in a hidden file
    beside the destination.

    Raises:
        InputError: the name is unknown, the origin can't be reached or doesn't know the file, the checksum
            differs, the member is missing or unsafe, the disk is full.
    """
    sources = read_sources(sources_file)
    if name not in sources:
        nearest = get_close_matches(name, sources, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(nearest)}" if nearest else f"known: {', '.join(sorted(sources))}"
        raise InputError(f"{sources_file}: there is no source {name!r}; {hint}")
    source, destination = sources[name], Path(destination)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _arrived(source, destination, Path(sources_file).parent) as file:
            if source.member is not None:
                _extract(source, file, destination)
            elif source.path is not None:
                with whole_file(destination) as partial:
                    shutil.copyfile(file, partial)
            else:
                file.replace(destination)
    except OSError as error:
        where = error.filename or destination
        raise InputError(f"source {name}: {where}: {error.strerror or error}") from error


@contextmanager
def _arrived(source: Source, destination: Path, folder: Path) -> Iterator[Path]:
    """The verified file that the source names, on the destination's file system unless it is a local path."""
    if source.path is not None:
        file = folder / source.path
        if not file.is_file():
            raise InputError(f"source {source.name}: there is no file {file}")
        if source.sha256 is not None:
            _verify(source, file)
        yield file
    elif source.url is not None:
        file = destination.with_name(f".{destination.name}.{source.sha256[:16]}.partial")
        _download(source, file)
        yield file
        file.unlink(missing_ok=True)
    else:
        with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as temporary:
            file = _apt_get(source, Path(temporary))
            _verify(source, file)
            yield file


def _verify(source: Source, file: Path) -> None:
    if (found := sha256(file)) != source.sha256:
        raise InputError(
            f"source {source.name}: wrong checksum of {source.path or source.url or file.name}:"
            f" expected sha256 {source.sha256}, found {found}"
        )


def _download(source: Source, partial: Path) -> None:
    """Complete `partial` from the URL and verify it; a wrong one is removed.

    A resumed file can mix two versions of what the server has, so it gets a second try from its first byte.
    """
    resumed = partial.exists()
    _request_rest(source, partial)
    try:
        try:
            _verify(source, partial)
        except InputError:
            if not resumed:
                raise
            partial.unlink()
            _request_rest(source, partial)
            _verify(source, partial)
    except InputError:
        partial.unlink(missing_ok=True)
        raise


def _request_rest(source: Source, partial: Path) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _request(source, partial)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if attempt == ATTEMPTS:
                kept = partial.stat().st_size if partial.exists() else 0
                raise InputError(
                    f"source {source.name}: {source.url} could not be downloaded in {ATTEMPTS} attempts"
                    f" ({type(error).__name__}); {kept} bytes are kept and the next run goes on from there"
                ) from error
            time.sleep(PAUSE_SECONDS)


def _request(source: Source, partial: Path) -> None:
    """Append what is missing, or write all of it if the server has no ranges.

    The body is taken as it is sent: a client that undoes a Content-Encoding would unpack a .gz on its way.
    """
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(source.url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing lies beyond: the checksum tells whether the file is complete
        if 400 <= response.status_code < 500:
            raise InputError(
                f"source {source.name}: {source.url}: the server answers"
                f" {response.status_code} {response.reason}"
            )
        response.raise_for_status()
        goes_on = response.status_code == requests.codes.partial_content and response.headers.get(
            "Content-Range", ""
        ).startswith(f"bytes {have}-")
        with partial.open("ab" if goes_on else "wb") as file:
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                file.write(chunk)


def _program(source: Source, name: str) -> str:
    if (found := shutil.which(name)) is None:
        raise InputError(
            f"source {source.name}: {name} is not on this system, and a Debian package needs it;"
            " use Debian, Ubuntu or a container of them"
        )
    return found


def _apt_get(source: Source, folder: Path) -> Path:
    apt_get = _program(source, "apt-get")
    done = subprocess.run(
        [apt_get, "download", "--quiet", "--option=Acquire::Retries=3", source.debian],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"LC_ALL": "C"},
    )
    packages = list(folder.glob("*.deb"))
    if done.returncode or len(packages) != 1:
        reasons = [line[3:] for line in done.stderr.splitlines() if line.startswith("E: ")]
        raise InputError(
            f"source {source.name}: apt-get can't download the package {source.debian}"
            f" ({'; '.join(reasons) or 'no reason given'}); is its list of packages up to date?"
        )
    return packages[0]


@dataclass(frozen=True)
class _Member:
    name: str
    content: IO[bytes] | None  # none for what is no plain file: a link, a device
    executable: bool
    link: str | None = None  # where a symbolic link leads


def _extract(source: Source, archive: Path, destination: Path) -> None:
    """Take the source's member, file or folder, out of the archive.

    Nothing is written but plain files in a fresh folder under names that were checked, so neither `..`, nor
    an absolute name, nor a link can lead anywhere else. A folder's second names of its files are left out.
    """
    assert source.member is not None
    wanted = PurePosixPath(source.member)
    try:
        if source.is_folder:
            with whole_directory(destination) as partial:
                if not _extract_folder(source, archive, wanted, partial):
                    raise InputError(f"source {source.name}: the archive has no files in {source.member}")
        else:
            for member in _members(source, archive):
                if _safe_path(source, member) == wanted:
                    with whole_file(destination) as partial:
                        _write(source, member, partial)
                    return
            raise InputError(f"source {source.name}: the archive has no member {source.member}")
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise InputError(f"source {source.name}: not a whole tar, zip or Debian archive ({error})") from error


def _extract_folder(source: Source, archive: Path, wanted: PurePosixPath, folder: Path) -> int:
    count, links = 0, []
    for member in _members(source, archive):
        path = _safe_path(source, member)
        if path.is_relative_to(wanted):
            target = folder / path.relative_to(wanted)
            if member.link is not None and PurePosixPath(member.link).name == member.link:
                links.append((member, target.with_name(member.link)))
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(source, member, target)
            count += 1
    for member, file in links:
        if not file.is_file():
            _refuse(source, member)
    return count


def _safe_path(source: Source, member: _Member) -> PurePosixPath:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\0" in member.name:
        raise InputError(f"source {source.name}: archive member {member.name!r} leads out of its folder")
    return path


def _refuse(source: Source, member: _Member) -> NoReturn:
    raise InputError(f"source {source.name}: archive member {member.name!r} is not a plain file")


def _write(source: Source, member: _Member, target: Path) -> None:
    if member.content is None:
        _refuse(source, member)
    with target.open("xb") as file:
        shutil.copyfileobj(member.content, file, CHUNK)
    target.chmod(0o755 if member.executable else 0o644)


def _members(source: Source, archive: Path) -> Iterator[_Member]:
    """All members but folders, in the archive's order; read a member before asking for the next."""
    with archive.open("rb") as file:
        magic = file.read(8)
    if magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        yield from _zip_members(archive)
    elif magic == b"!<arch>\n":
        command = [_program(source, "dpkg-deb"), "--fsys-tarfile", str(archive)]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as tar,
        ):
            yield from _tar_members(tar)
            while process.stdout.read(CHUNK):  # a pipe closed early would look like a failure
                pass
            if process.wait():
                raise tarfile.ReadError("dpkg-deb can't read it")
    else:
        with tarfile.open(archive, "r|*") as tar:
            yield from _tar_members(tar)


def _tar_members(tar: tarfile.TarFile) -> Iterator[_Member]:
    for info in tar:
        if not info.isdir():
            content = tar.extractfile(info) if info.isreg() else None
            link = info.linkname if info.issym() else None
            yield _Member(info.name, content, bool(info.mode & 0o100), link)


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            mode = info.external_attr >> 16
            if not info.is_dir():
                plain = mode == 0 or (mode & 0o170000) in (0, 0o100000)
                content = zipped.open(info) if plain else None
                yield _Member(info.filename, content, bool(mode & 0o100))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ssm_seq.data.sources", description="Bring a source to disk, whole and verified."
    )
    parser.add_argument("name", help="an entry of the sources file")
    parser.add_argument("destination", type=Path)
    parser.add_argument("--sources", type=Path, default=SOURCES, help=f"the YAML file (default: {SOURCES})")
    options = parser.parse_args(arguments)
    try:
        fetch(options.name, options.destination, options.sources)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
