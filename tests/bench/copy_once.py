"""Copy one file over SSH: ``copy_once.py put|get HERE THERE HOST PORT SSH_CONFIG``; prints the seconds that it took."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from clustrix.transports.ssh import SSH


def main() -> None:
    verb, here, there, host, port, config = sys.argv[1:]
    transport = SSH(host, port=int(port), username="alice", config_file=config)
    start = time.perf_counter()
    if verb == "put":
        transport.put(Path(here), there)
    else:
        transport.get(there, Path(here))
    print(time.perf_counter() - start)
    transport.close()


if __name__ == "__main__":
    main()
