"""What the file functions answer on every side.

A subclass has the fixtures ``transport``, which plants files, ``there``, a directory of that host, ``target``, under
which the functions find it, and ``unprivileged``, for the time of which not everything may be read there.
"""

from __future__ import annotations

import io
import shlex
import tarfile
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import pytest

from clustrix import (
    DiskUsage,
    cluster_count_files,
    cluster_du,
    cluster_exists,
    cluster_find,
    cluster_glob,
    cluster_isdir,
    cluster_isfile,
    cluster_ls,
    cluster_stat,
)

if TYPE_CHECKING:
    from clustrix.transports.base import Transport

HOSTILE = sorted(
    [
        b"-rf",
        b" blank ",
        b"*[x]?",
        b"$(touch forged)`id`'\"%s",
        b"a\nf 1 644 1.0 0 0 1 forged",
        b"back\\0101\\slash",
        b"caf\xe9",
        "\ue000".encode(),
        "\U0001f40d".encode(),
        b"\xff",  # the last one by its bytes, and not by its surrogate
        bytes(byte for byte in range(1, 256) if byte != ord("/")),
    ]
)
_TIME = 1_700_000_000
_TREE: dict[str, tuple[bytes, str | bytes]] = {
    "data": (tarfile.DIRTYPE, ""),
    "data/.hidden.csv": (tarfile.REGTYPE, b"12"),
    "data/B.csv": (tarfile.REGTYPE, b"12345"),
    "data/a.csv": (tarfile.REGTYPE, b"123"),
    "data/again.csv": (tarfile.LNKTYPE, "data/a.csv"),
    "data/deep": (tarfile.DIRTYPE, ""),
    "data/deep/er": (tarfile.DIRTYPE, ""),
    "data/deep/er/c.csv": (tarfile.REGTYPE, b"1"),
    "data/deep.txt": (tarfile.REGTYPE, b""),
    "data/nowhere": (tarfile.SYMTYPE, "absent"),
    "data/pipe": (tarfile.FIFOTYPE, ""),
    "data/round": (tarfile.SYMTYPE, "round"),
    "data/to_deep": (tarfile.SYMTYPE, "deep"),
    "link": (tarfile.SYMTYPE, "data"),
}


def plant(transport: Transport, there: str, tree: dict[str, tuple[bytes, str | bytes]]) -> None:
    """Make files, directories (0750) and links, last changed at ``_TIME``; of files the mode is 0640."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        for name, (kind, text) in tree.items():
            row = tarfile.TarInfo(name)
            row.type, row.mtime, row.mode = kind, _TIME, 0o750 if kind == tarfile.DIRTYPE else 0o640
            if isinstance(text, bytes):
                row.size = len(text)
            else:
                row.linkname = text
            archive.addfile(row, io.BytesIO(text) if isinstance(text, bytes) else None)
    done = transport.run(f"tar -xpf - --no-same-owner -C {shlex.quote(there)}", stdin=packed.getvalue())
    assert done.returncode == 0, done.stderr


class Files:
    """Hold the suite."""

    def test_files_links_and_what_they_are(self, transport: Transport, there: str, target: str | None) -> None:
        plant(transport, there, _TREE)
        transport.run(f"touch -d @-1.5 {there}/data/deep")
        found = {info.name: info for info in cluster_ls(f"{there}/link", target=target)}
        names = [
            ".hidden.csv",
            "B.csv",
            "a.csv",
            "again.csv",
            "deep",
            "deep.txt",
            "nowhere",
            "pipe",
            "round",
            "to_deep",
        ]
        assert list(found) == names
        assert [info.path for info in found.values()] == [f"{there}/link/{name}" for name in names]
        assert {name for name in names if found[name].is_dir} == {"deep"}
        assert {name for name in names if found[name].is_link} == {"nowhere", "round", "to_deep"}
        assert {name for name in names if not found[name].is_file} == {"deep", "nowhere", "pipe", "round", "to_deep"}
        about = found["B.csv"]
        assert (about.size_bytes, about.mode) == (5, 0o640)
        assert about.modified == datetime.fromtimestamp(_TIME, timezone.utc)
        assert found["to_deep"].size_bytes == len("deep")
        assert found["deep"].modified == datetime(1969, 12, 31, 23, 59, 58, 500_000, timezone.utc)
        assert cluster_ls(f"{there}/data/B.csv", target=target) == [cluster_stat(f"{there}/data/B.csv", target=target)]

        through = cluster_stat(f"{there}/data/to_deep", target=target)
        assert (through.name, through.is_dir, through.is_link, through.mode) == ("to_deep", True, False, 0o750)
        seen = {
            name: [
                ask(f"{there}/data/{name}", target=target) for ask in (cluster_exists, cluster_isdir, cluster_isfile)
            ]
            for name in ("a.csv", "to_deep", "pipe", "nowhere", "round", "a.csv/x", "absent")
        }
        assert seen == {
            "a.csv": [True, False, True],
            "to_deep": [True, True, False],
            "pipe": [True, False, False],
            **{name: [False, False, False] for name in ("nowhere", "round", "a.csv/x", "absent")},
        }

    def test_patterns_and_sums(self, transport: Transport, there: str, target: str | None) -> None:
        plant(transport, there, _TREE)

        def glob(pattern: str, path: str = f"{there}/data") -> list[str]:
            return [found.removeprefix(f"{there}/") for found in cluster_glob(pattern, path, target=target)]

        assert glob("*.csv") == ["data/.hidden.csv", "data/B.csv", "data/a.csv", "data/again.csv"]
        assert glob("**/*.csv") == [*glob("*.csv"), "data/deep/er/c.csv"]
        assert glob("[!A-Z.]?cs[!v]") == glob("?.CSV") == glob("absent/*") == glob("nowhere") == []
        assert glob("*/") == ["data/deep"]
        assert glob(f"{there}/*/deep/**", "/absent") == ["data/deep/er", "data/deep/er/c.csv"]
        assert glob("to_deep/**/?.csv") == ["data/to_deep/er/c.csv"]
        assert glob("deep/er/c.csv") == ["data/deep/er/c.csv"]

        found = cluster_find("*e*", there, target=target)
        # In the order of `LC_ALL=C sort`, where a dot comes before a slash.
        assert [info.path.removeprefix(f"{there}/data/") for info in found] == [
            *(".hidden.csv", "deep", "deep.txt", "deep/er", "nowhere", "pipe", "to_deep")
        ]
        links = cluster_find(path=there, type="link", target=target)
        assert [info.name for info in links] == ["nowhere", "round", "to_deep", "link"]
        assert cluster_count_files(there, target=target) == 6
        assert cluster_count_files(f"{there}/link", "*.csv", target=target) == 5
        assert cluster_du(f"{there}/link", target=target) == DiskUsage(f"{there}/link", 11, 6, 2, 4)
        assert cluster_du(f"{there}/data/B.csv", target=target).total_bytes == 5

    def test_hostile_names(self, transport: Transport, there: str, target: str | None) -> None:
        names = [name.decode("utf-8", "surrogateescape") for name in HOSTILE]
        plant(transport, there, {name: (tarfile.REGTYPE, name.encode("utf-8", "surrogateescape")) for name in names})
        assert [info.name for info in cluster_ls(there, target=target)] == names
        for info, name in zip(cluster_find(path=there, target=target), HOSTILE, strict=True):
            assert info.size_bytes == len(name)
            assert cluster_stat(info, target=target) == info
            with pytest.raises(NotADirectoryError) as failed:
                cluster_ls(f"{info.path}/x", target=target)
            assert failed.value.filename == f"{info.path}/x"
        assert cluster_glob("[*]*", there, target=target) == [f"{there}/*[x]?"]
        with pytest.raises(ValueError, match="null byte"):
            cluster_ls("a\0b", target=target)

    def test_what_may_not_be_read_is_told(
        self, transport: Transport, there: str, target: str | None, unprivileged: None
    ) -> None:
        plant(transport, there, _TREE)
        transport.run(f"chmod 0 {there}/data/deep")
        assert len(cluster_ls(f"{there}/data", target=target)) == 10
        try:
            for ask in (cluster_du, cluster_count_files):
                with pytest.raises(PermissionError) as failed:
                    ask(there, target=target)
                assert failed.value.filename == f"{there}/data/deep"
            for pattern in ("**/*.csv", "deep/*"):
                with pytest.raises(PermissionError):
                    cluster_glob(pattern, f"{there}/data", target=target)
            for look in (cluster_stat, cluster_exists, cluster_isfile):
                with pytest.raises(PermissionError) as failed:
                    look(f"{there}/data/deep/er", target=target)
                assert failed.value.filename == f"{there}/data/deep/er"
            transport.run(f"chmod 444 {there}/data/deep")  # names, and nothing of them
            with pytest.raises(PermissionError):
                cluster_ls(f"{there}/data/deep", target=target)
        finally:
            transport.run(f"chmod 755 {there}/data/deep")
        with pytest.raises(NotADirectoryError):
            cluster_find(path=f"{there}/data/a.csv", target=target)
