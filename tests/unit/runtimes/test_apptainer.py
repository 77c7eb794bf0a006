"""What starts a command in a SIF; that it does is shown on the test bed."""

from __future__ import annotations

from clustrix.model.job import Placed
from clustrix.model.resources import Mount
from clustrix.runtimes.apptainer import Apptainer


def test_what_apptainer_is_told() -> None:
    placed = Placed(runtime="apptainer", location="/s/x.sif", interpreter="/p")
    mounts = [Mount("/a", "/a"), Mount("/b,c", '/d"', read_only=True)]
    argv = Apptainer().wrap(
        placed, ["/p", "x"], mounts=mounts, variables={"A": "1"}, gpus=0, memory_bytes=None, cores=1
    )
    told = ["--mount", "type=bind,source=/a,destination=/a"]
    told += ["--mount", 'type=bind,"source=/b,c","destination=/d""",ro']
    assert list(argv[argv.index("--") + 1 :]) == [*told, "/s/x.sif", "/p", "x"]
