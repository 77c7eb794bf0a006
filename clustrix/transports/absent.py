"""What stands in the place of a transport where there is no host: its every use is an error that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, NoReturn

from clustrix.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from clustrix.model.progress import Progress
    from clustrix.transports.base import Completed


class Absent:
    """Refuse; ``address`` names the target."""

    def __init__(self, address: str) -> None:
        self.address = address

    def run(self, script: str, *, stdin: bytes | BinaryIO = b"", timeout: float | None = None) -> Completed:
        """Refuse to run a script."""
        del script, stdin, timeout
        self._refuse()

    def stream(self, script: str) -> AbstractContextManager[Iterator[bytes]]:
        """Refuse to run a script."""
        del script
        self._refuse()

    def put(self, source: Path, destination: str, *, mode: int = 0o600, progress: Progress | None = None) -> None:
        """Refuse to copy a file."""
        del source, destination, mode, progress
        self._refuse()

    def get(self, source: str, destination: Path, *, progress: Progress | None = None) -> None:
        """Refuse to copy a file."""
        del source, destination, progress
        self._refuse()

    def close(self) -> None:
        """Have nothing to let go of."""

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            f"{self.address} is no host, and nothing can be run on it or copied to it",
            remedy="Use a target that is reached by SSH, or a PersistentVolumeClaim that jobs mount.",
        )
