"""How whatever takes long tells how far it is; the command line draws it, everybody else stays silent."""

from __future__ import annotations

from typing import Protocol


class Bar(Protocol):
    """Follow one piece of work; safe to advance from several threads."""

    def advance(self, amount: int) -> None:
        """Count ``amount`` more units (bytes unless the stage says otherwise); negative when work is done again."""

    def close(self) -> None:
        """Say that the work has ended, well or badly."""


class Progress(Protocol):
    """Start bars."""

    def start(self, stage: str, total: int | None) -> Bar:
        """Begin a stage such as ``push sha256:1234``; ``total`` is None when nobody knows."""


class _NoBar:
    def advance(self, amount: int) -> None:
        pass

    def close(self) -> None:
        pass


class NoProgress:
    """Say nothing."""

    def start(self, stage: str, total: int | None) -> Bar:  # noqa: ARG002 - the protocol's names
        """Begin nothing."""
        return _NoBar()


SILENT: Progress = NoProgress()
"""The default of every ``progress`` parameter."""
