"""A place where jobs run as at a real target: bundles, job directories, the worker as a process."""

import subprocess
import sys
from pathlib import Path

from clustrix.bundle import code, worker
from clustrix.model.paths import SitePaths
from clustrix.worker import installed, outcome, payload, task

KEY = b"k" * 32


class Site:
    def __init__(self, root, cache):
        self.paths = SitePaths(str(root))
        self.cache = Path(cache)
        self.worker = self.place(worker.build(self.cache))
        self.jobs = 0

    def place(self, bundle):
        target = Path(self.paths.bundle(bundle.digest))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bundle.path.read_bytes())
        return target

    def submit(self, function, items, *, environment=None, travelling=(), **fields):
        """Write the files of a job; items are tuples of arguments."""
        self.jobs += 1
        paths = self.paths.job(f"job-{self.jobs}")
        Path(paths.outcomes).mkdir(parents=True)
        with Path(paths.payload).open("wb") as file:
            packed = payload.pack(file, function, [(args, {}) for args in items], environment)
        bundle = code.collect(packed.modules, travelling, self.cache)
        python = installed.interpreter()
        described = {
            "job_id": "local/TEST",
            "function_name": payload.name_of(function),
            "items": packed.items,
            "slices": ((0, packed.items),),
            "workers": 1,
            "python": python.minor,
            "implementation": python.implementation,
            "abi": python.abi,
            "code": (bundle.digest,) if bundle else (),
        }
        if bundle:
            self.place(bundle)
        Path(paths.task).write_bytes(task.write(task.Task(**{**described, **fields})))
        Path(paths.key).write_bytes(KEY)
        return paths

    def argv(self, paths, number=0, python=sys.executable):
        return [*worker.argv(python, str(self.worker)), paths.directory, str(number)]

    def run(self, paths, number=0, python=sys.executable, **options):
        """Run one task to its end."""
        return subprocess.run(
            self.argv(paths, number, python), capture_output=True, text=True, timeout=60, check=False, **options
        )

    def read(self, paths, index=0, **options):
        """Give the value of an item or raise."""
        value = Path(paths.value(index))
        metadata = Path(paths.outcome(index)).read_bytes()
        content = value.read_bytes() if value.exists() else b""
        return outcome.read(metadata, content, KEY, index=index, job_id="local/TEST", **options)

    def verified(self, paths, index=0):
        return outcome.verify(Path(paths.outcome(index)).read_bytes(), KEY, index=index)

    def call(self, function, *args, **options):
        """Run one call as a job and give its value."""
        paths = self.submit(function, [args], **options)
        done = self.run(paths)
        assert done.returncode == 0, done.stderr
        return self.read(paths)
