"""What every runtime promises. A subclass has a fixture ``room``; venv is the first, Docker and Apptainer the next."""

from __future__ import annotations

import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clustrix.model.job import new_ulid
from clustrix.model.paths import SitePaths
from clustrix.model.progress import SILENT
from clustrix.model.resources import Mount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clustrix.model.job import Placed
    from clustrix.runtimes.base import Artifact, Runtime
    from clustrix.transports.base import Completed, Transport


@dataclass
class Room:
    """Hold a runtime on a host, what it is given, and run commands in it as a wrapper would."""

    runtime: Runtime
    transport: Transport
    site: SitePaths
    artifact: Artifact

    def ensure(self) -> Placed:
        return self.runtime.ensure(self.artifact, self.transport, self.site, progress=SILENT)

    def wrap(self, argv: Sequence[str], placed: Placed | None = None, **options: Any) -> tuple[str, ...]:
        placed = placed or self.ensure()
        asked = {"mounts": (), "variables": {}, "gpus": 0, "memory_bytes": None, "cores": 1, **options}
        return self.runtime.wrap(placed, [placed.interpreter, "-I", *argv], **asked)

    def python(self, code: str, *arguments: str, **options: Any) -> Completed:
        """Run a line of Python inside."""
        argv = self.wrap(["-c", code, *arguments], **options)
        return self.transport.run(self.prelude() + shlex.join(argv), timeout=120)

    def prelude(self) -> str:
        """Set what a wrapper sets."""
        ends = self.site.job(new_ulid()).ends
        return f"mkdir -p {shlex.quote(ends)}; export CLUSTRIX_NOTE={shlex.quote(ends)}/0.note\n"


class Runtimes:
    """Hold the suite."""

    def test_ensuring_again_changes_nothing(self, room: Room) -> None:
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda _: room.ensure(), range(2))
        assert first == second == room.ensure()

    def test_commands_run_inside(self, room: Room) -> None:
        done = room.python(
            "import os, sys; print(os.environ['SAYS'], sys.argv[1]); print('to stderr', file=sys.stderr); sys.exit(7)",
            "a b\n'\"$HOME",
            variables={"SAYS": "x=$(touch pwned) 'é"},
        )
        assert done.stdout.decode() == "x=$(touch pwned) 'é a b\n'\"$HOME\n"
        assert b"to stderr" in done.stderr
        assert done.returncode == 7

    @pytest.mark.proves("mounts")
    def test_what_is_written_belongs_to_the_account(self, room: Room, tmp_path: Path) -> None:
        mount = self.mount(room, "out, of")
        done = room.python("import sys; open(sys.argv[1] + '/file', 'w').close()", mount.target, mounts=(mount,))
        assert done.returncode == 0, done.stderr
        found = room.transport.run(f"stat -c %u {shlex.quote(mount.source + '/file')}; id -u").stdout.split()
        assert found[0] == found[1]

    def test_signals_arrive(self, room: Room) -> None:
        mount = self.mount(room, "signals")
        code = (
            "import signal, sys, time\n"
            "def told(*_): open(sys.argv[1] + '/told', 'w').close(); sys.exit(3)\n"
            "signal.signal(signal.SIGTERM, told); open(sys.argv[1] + '/ready', 'w').close()\n"
            "time.sleep(100)"
        )
        argv = room.wrap(["-c", code, mount.target], mounts=(mount,))
        quoted = shlex.quote(mount.source)
        script = (
            f"{room.prelude()}"
            f"{shlex.join(argv)} & child=$!\n"
            f"i=0; while [ ! -e {quoted}/ready ] && [ $i -lt 600 ]; do sleep 0.1; i=$((i + 1)); done\n"
            "kill -TERM $child; wait $child; echo $?"
        )
        done = room.transport.run(script, timeout=120)
        assert done.stdout.split()[-1:] == [b"3"], done
        assert room.transport.run(f"[ -e {quoted}/told ]").returncode == 0

    def mount(self, room: Room, name: str) -> Mount:
        """Make a directory at the target that a job may see, under a name that wants quoting."""
        path = f"{room.site.root}/{name}"
        assert room.transport.run(f"mkdir -p {shlex.quote(path)}").returncode == 0
        return Mount(path, path)
