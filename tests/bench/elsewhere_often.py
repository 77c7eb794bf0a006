"""Call and map at a target in turn with raw submissions: what each took in seconds, as JSON.

Usage: elsewhere_often.py sge|ssh|pbs ROUNDS [TARGET], in a directory whose configuration names the target, ``near``.
"""

from __future__ import annotations

import json
import secrets
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix import configure, pipeline
from clustrix.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable

MODULE = """
from clustrix import cluster

@cluster
def same(number):
    return number
"""
CALLS, ITEMS = 5, 100

# Both end when as many files as tasks are there; the log-in shell has what qsub needs.
ARRAY = {
    "sge": "qsub -terse -S /bin/sh -o /dev/null -j y -t 1-{count} >/dev/null <<'END' || exit\n{task}\nEND\n",
    "pbs": "qsub -f -S /bin/sh -o /dev/null -j oe {indices} >/dev/null <<'END' || exit\n{task}\nEND\n",
    "ssh": "(seq {count} | xargs -P {room} -n 1 sh -c {quoted}) >/dev/null 2>&1 </dev/null &\n",
}
NUMBER = {"sge": "$SGE_TASK_ID", "pbs": "${PBS_ARRAY_INDEX:-0}", "ssh": "$0"}
TASK = "apptainer exec {sif} {python} -c pass && touch $HOME/{mark}/{number}"


def main() -> None:
    backend, rounds, target = [*sys.argv[1:], "near"][:3]
    Path("caller.py").write_text(MODULE)
    sys.path.insert(0, str(Path.cwd()))
    from caller import same

    configure(target=target)
    assert [same(number) for number in range(2)] == [0, 1]
    ready = pipeline.prepare(pipeline.resolve({"target": target}))
    samples: dict[str, list[Any]] = {}

    def mapped() -> None:
        array = same.map(range(ITEMS))
        assert list(array.results()) == list(range(ITEMS))
        samples.setdefault("submissions", []).append(len(str(Journal().find(str(array.id)).native_id).split()))

    for _ in range(int(rounds)):
        for _ in range(CALLS):
            _add(samples, "call", lambda: same(1))
            _add(samples, "floor", lambda: _raw(ready, backend, 1))
        _add(samples, "packed", mapped)
        _add(samples, "array", lambda: _raw(ready, backend, ITEMS))
    print(json.dumps(samples))


def _raw(ready: Any, backend: str, count: int) -> None:
    """Submit the least that starts Python in the image, and wait in the same remote shell until all have touched."""
    mark = f"floor-{secrets.token_hex(4)}"
    task = TASK.format(
        sif=shlex.quote(ready.placed.location), python=ready.placed.interpreter, mark=mark, number=NUMBER[backend]
    )
    room = ready.target.room(1) or 1 if backend == "ssh" else 0
    indices = f"-J 0-{count - 1}" if count > 1 else ""  # PBS has no array of one
    start = ARRAY[backend].format(count=count, indices=indices, task=task, quoted=shlex.quote(task), room=room)
    script = f"cd && mkdir {mark} || exit\n{start}"
    script += f'while [ "$(ls {mark} | wc -l)" -lt {count} ]; do sleep 0.02; done; rm -rf {mark}'
    done = ready.target.transport.run(ready.target.backend._exports() + script)
    assert done.returncode == 0, done.stderr


def _add(samples: dict[str, list[Any]], name: str, action: Callable[[], object]) -> None:
    start = time.perf_counter()
    action()
    took = time.perf_counter() - start
    samples.setdefault(name, []).append(took)
    print(f"  {name} {took:.3f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
