"""How a SIF is made, by an Apptainer that only takes its time."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

from clustrix.model.paths import SitePaths
from clustrix.runtimes import sif
from clustrix.transports.local import Local

if TYPE_CHECKING:
    from pathlib import Path


def test_a_maker_that_is_cancelled_lets_go_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    apptainer = tmp_path / "apptainer"
    apptainer.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/started\nexec sleep 1000\n")
    apptainer.chmod(0o755)
    sifs = sif.Sifs(Local(), SitePaths(str(tmp_path / "site")))
    script = sifs._begin(f"{sifs.site.sifs}/x.sif", source="y") + sif._assign(command=str(apptainer)) + sif._MAKE
    maker = subprocess.Popen(["sh", "-c", script], stdin=subprocess.DEVNULL, start_new_session=True)
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    assert any((tmp_path / "site/sifs").iterdir())
    maker.terminate()
    assert maker.wait(30) == 143
    assert list((tmp_path / "site/sifs").iterdir()) == []
