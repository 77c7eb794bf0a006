"""What `clustrix doctor` says of a scheduler whose commands have another's names."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from clustrix import registry
from clustrix.cli import doctor
from clustrix.transports.local import Local

PRINTED = {"torque": "Version: 6.1.2\nCommit: 661e092", "pbs": "pbs_version = 23.06.06"}
NAMES = {"torque": "Torque 6.1.2", "pbs": "PBS 23.06.06"}
SAID = {"torque": "the scheduler there is not Torque, it is ", "pbs": "the scheduler there is not PBS, it is "}


@pytest.mark.parametrize("there", sorted(PRINTED))
@pytest.mark.parametrize("backend", sorted(PRINTED))
def test_pbs_and_torque_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, there: str
) -> None:
    (tmp_path / "qstat").write_text(f"#!/bin/sh\necho '{PRINTED[there]}'\n")
    (tmp_path / "qstat").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    target = SimpleNamespace(transport=Local())
    (finding,) = doctor._examine_version(target, registry.load("schedulers", backend)(), "version")
    if backend == there:
        assert finding == doctor.Finding("version", "ok", NAMES[there], None)
    else:
        assert finding == doctor.Finding("version", "fail", SAID[backend] + NAMES[there], f"Set `backend: {there}`.")
