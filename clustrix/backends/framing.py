"""Several commands in one round trip, and their answers told apart from whatever else a shell prints."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from clustrix.transports.base import Completed

if TYPE_CHECKING:
    from collections.abc import Sequence

# Standard output goes straight through descriptor 3; standard error is short and fits in a variable.
_ASK = """
ask() {{
  printf '\\n%s\\n' {marker}
  {{ said=$("$@" 2>&1 >&3 3>&-); status=$?; }} 3>&1
  printf '\\n%s %d\\n%s\\n%s\\n' {marker} "$status" "$said" {marker}
}}
"""


class Frame:
    """Hold the marker of one round trip: scripts begin with ``prelude`` and prefix a command with ``ask``."""

    def __init__(self) -> None:
        self._marker = f"clustrix-{secrets.token_hex(12)}"

    @property
    def prelude(self) -> str:
        """Define ``ask``."""
        return _ASK.format(marker=self._marker)

    def answers(self, stdout: bytes) -> Sequence[Completed]:
        """Read the answers, in the order of the questions; those that did not arrive whole are left out."""
        marker = self._marker.encode()
        # Before the first marker: noise. Then, for each question: output, status and errors, noise.
        parts = stdout.split(b"\n" + marker)
        found = []
        for number in range((len(parts) - 1) // 3):
            output, rest = parts[3 * number + 1 : 3 * number + 3]
            status, _, errors = rest.partition(b"\n")
            found.append(Completed(int(status), output[1:], errors))
        return found
