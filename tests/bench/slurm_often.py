"""Call and map on SLURM in turn with raw submissions: what each took in seconds, as JSON.

Usage: slurm_often.py ROUNDS, in a directory whose configuration names the targets ``near`` and ``far``.
"""

from __future__ import annotations

import json
import secrets
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustrix import pipeline
from clustrix.transports.posix import PosixTransport

if TYPE_CHECKING:
    from collections.abc import Callable

MODULE = """
from clustrix import cluster

@cluster
def same(number):
    return number
"""
CALLS, ITEMS, MANY = 5, 50, 1000


def main() -> None:
    rounds = int(sys.argv[1])
    Path("caller.py").write_text(MODULE)
    sys.path.insert(0, str(Path.cwd()))
    from caller import same

    far = same.options(target="far")
    for function in (same, far):
        assert [function(number) for number in range(2)] == [0, 1]
    ready = pipeline.prepare(pipeline.resolve({"target": "near"}))
    samples: dict[str, list[Any]] = {}

    def raw(array: str, files: int) -> None:
        _raw(ready, array, files)

    def mapped(items: int, **options: Any) -> None:
        assert list(same.map(range(items), **options).results()) == list(range(items))

    def submitted(function: Any) -> float:
        start = time.perf_counter()
        job = function.submit(1)
        took = time.perf_counter() - start
        assert job.result() == 1
        return took

    for _ in range(rounds):
        for _ in range(CALLS):
            _add(samples, "call", _seconds(lambda: same(1)))
            _add(samples, "floor", _seconds(lambda: raw("", 1)))
            _add(samples, "near", submitted(same))
            _add(samples, "far", submitted(far))
        _add(samples, "tasks", _seconds(lambda: mapped(ITEMS, chunksize=1)))
        _add(samples, "array", _seconds(lambda: raw(f"--array=1-{ITEMS}", ITEMS)))
        _add(samples, "packed", _seconds(lambda: mapped(ITEMS)))
        _add(samples, "thousand", _seconds(lambda: mapped(MANY)))
    samples["round_trips"] = [_round_trips(same)]
    print(json.dumps(samples))


def _raw(ready: Any, array: str, files: int) -> None:
    """Submit the least that starts Python in the image, and wait in the same remote shell until all have touched."""
    mark = f"floor-{secrets.token_hex(4)}"
    sif, python = shlex.quote(ready.placed.location), ready.placed.interpreter
    task = f"apptainer exec {sif} {python} -c pass && touch $HOME/{mark}/${{SLURM_ARRAY_TASK_ID:-0}}"
    script = f"mkdir {mark} && sbatch --output=/dev/null {array} --wrap {shlex.quote(task)} || exit; "
    script += f'while [ "$(ls {mark} | wc -l)" -lt {files} ]; do sleep 0.02; done; rm -rf {mark}'
    done = ready.target.transport.run(f"cd && {script}")
    assert done.returncode == 0, done.stderr


def _round_trips(function: Any) -> int:
    """Count what a warm submission asks of the transport."""
    count = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            return original(*args, **kwargs)

        return call

    run = PosixTransport.run
    PosixTransport.run = counted(run)  # type: ignore[method-assign]
    try:
        job = function.submit(1)
    finally:
        PosixTransport.run = run  # type: ignore[method-assign]
    assert job.result() == 1
    return count


def _add(samples: dict[str, list[Any]], name: str, figure: Any) -> None:
    samples.setdefault(name, []).append(figure)
    print(f"  {name} {figure:.3f}", file=sys.stderr, flush=True)


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
