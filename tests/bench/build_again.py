"""Build and push in one process what was built before, as calls of an `@cluster` function do: what it took, as JSON.

Usage: build_again.py REQUIREMENTS BASE DESTINATION TIMES [--no-bytecode]
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from clustrix import artifacts
from clustrix.model.image import Image
from clustrix.publish import destination, registry_of


def main() -> None:
    requirements, base, target, times, *options = sys.argv[1:]
    print(json.dumps([once(requirements, base, target, not options) for _ in range(int(times))]))


def once(requirements: str, base: str, target: str, bytecode: bool) -> dict[str, Any]:
    registries = (str(registry_of(target)),)
    client = artifacts.client(insecure=registries)
    requests, moved = client.stats.requests.copy(), client.stats.uploaded_bytes + client.stats.downloaded_bytes
    start = time.perf_counter()
    image = Image.from_lock(requirements)
    on = artifacts.base(base, minor="3.11", machine="x86_64", insecure=registries)
    found = artifacts.source(image, Path.cwd())
    locked = artifacts.lock(found, on.platform, on.python("3.11")[1].version).lock
    made = artifacts.build(artifacts.recipe(image, locked, on, bytecode=bytecode))
    destination(target, client=client).publish(made.image, artifacts.layout())
    took = time.perf_counter() - start
    return {
        "seconds": took,
        "requests": client.stats.requests - requests,
        "moved_bytes": client.stats.uploaded_bytes + client.stats.downloaded_bytes - moved,
    }


if __name__ == "__main__":
    main()
