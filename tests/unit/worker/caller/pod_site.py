"""A pod without a cluster: the directories that Kubernetes would mount, and the first process."""

import os
import subprocess
import sys

from clustrix.bundle import code, worker
from clustrix.model.job import new_ulid
from clustrix.model.paths import SitePaths
from clustrix.worker import installed, message, outcome, payload, task

KEY = b"k" * 32


class Pod:
    def __init__(self, directory, cache, function, items, *, number=0, registry=None, remote=None, **fields):
        self.root = directory / "clustrix"
        self.ulid = new_ulid()
        self.paths = SitePaths(str(self.root)).job(self.ulid)
        self.log = directory / "termination-log"
        self.number = number
        secret, bundles = directory / "clustrix-job", directory / "clustrix-bundles"
        for place in (self.root, secret, bundles):
            place.mkdir()
        environment = fields.pop("environment", None)
        with (secret / "payload").open("wb") as file:
            packed = payload.pack(file, function, [(args, {}) for args in items], environment)
        own = code.collect(packed.modules, (), cache)
        made = [worker.build(cache), *([own] if own else [])]
        for bundle in made:
            place = bundles / bundle.digest.removeprefix("sha256:")
            place.mkdir()
            (place / "bundle.zip").write_bytes(bundle.path.read_bytes())
        self.worker = bundles / made[0].digest.removeprefix("sha256:") / "bundle.zip"
        python = installed.interpreter()
        described = {
            "job_id": f"k8s/{self.ulid}",
            "function_name": payload.name_of(function),
            "items": packed.items,
            "slices": ((0, packed.items),),
            "workers": 1,
            "python": python.minor,
            "implementation": python.implementation,
            "abi": python.abi,
            "code": (own.digest,) if own else (),
            "workdir": self.paths.work,
        }
        (secret / "task.json").write_bytes(task.write(task.Task(**{**described, **fields})))
        (secret / "key").write_bytes(KEY)
        if registry:
            (secret / "registry.json").write_text(registry)
        self.secret = secret

    def start(self, mode="--pod", output=subprocess.PIPE, **variables):
        environment = {
            **{name: os.environ[name] for name in ("PATH", "LANG", "SSL_CERT_FILE") if name in os.environ},
            "JOB_COMPLETION_INDEX": str(self.number),
            "CLUSTRIX_TERMINATION_LOG": str(self.log),
            "CLUSTRIX_POD_NAME": "pod-1",
            "CLUSTRIX_POD_UID": "uid-1",
            "CLUSTRIX_NODE_NAME": "node-1",
            "CLUSTRIX_SINK": "registry",
            **{name: str(value) for name, value in variables.items()},
        }
        return subprocess.Popen(
            [sys.executable, "-I", str(self.worker), mode, str(self.root), self.ulid],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, **variables):
        """Run it to its end: (exit code, what it printed before its message)."""
        process = self.start(**variables)
        output, _ = process.communicate(timeout=120)
        shown, message, _ = output.partition(self.log.read_text())
        self.said = bool(message)
        return process.returncode, shown

    @property
    def message(self):
        return message.decode(self.log.read_text())

    def value(self, index=0, key=KEY):
        text, value = self.message.inline[index]
        return outcome.read(text, value, key, index=index, job_id=f"k8s/{self.ulid}")
