"""One Job of Kubernetes for each job: https://kubernetes.io/docs/concepts/workloads/controllers/job/.

Maps of more tasks than one may have are several Jobs, which share a Secret; `clustrix.kubernetes.manifest.parts`.

Every object has a name that follows from the job's id, so that whatever an earlier attempt did is found. A Job is made
suspended and begins when its Secret is there, which belongs to it: a client that dies in between leaves nothing that
runs, and nothing that outlives the Job.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clustrix.errors import BackendError, ClustrixError, ConfigError, ConnectionLost
from clustrix.kubernetes import cargo, defaults, fate, manifest, names, options
from clustrix.model import record as records
from clustrix.model.job import End, EndKind, State, TaskStatus
from clustrix.model.paths import SitePaths
from clustrix.oci.reference import Reference
from clustrix.worker.message import derive

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from clustrix.kubernetes.place import Place
    from clustrix.model.job import JobId, JobRecord, JobSpec
    from clustrix.oci.auth import Credentials
    from clustrix.oci.client import Client

    Document = dict[str, Any]

_ATTEMPTS = 6
_PAUSE = 0.5  # seconds before a cut submission is taken up again, doubled each time
_GRACE = 5  # seconds that cancelled pods have to end
_GONE = 60.0  # seconds until they must be gone
_LOOK = 0.2
_TRUSTED = 10.0  # seconds for which a bundle that was seen is taken to be there: calls in a row ask once
_BACKGROUND = {"propagationPolicy": "Background"}
_ACTIVE = "status.phase!=Succeeded,status.phase!=Failed"


class Kubernetes:
    """Drive the jobs of one namespace."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._cluster = place.cluster
        self._bundles: dict[str, float] = {}
        self._removed: set[JobId] = set()
        self._nodes: tuple[float, Sequence[Document] | None] | None = None

    def submit(self, spec: JobSpec, record: JobRecord, files: Mapping[str, bytes | Path]) -> str:
        """Make the objects of a job, once and only once; see `clustrix.backends.base.Backend`."""
        paths = SitePaths(record.root).job(spec.id.ulid)
        load = cargo.load(paths, files)
        login = self._login(spec)
        order = self._order(spec, records.dump(record).decode(), load, pull=login is not None)
        parts = manifest.parts(order)
        if load.blobs:
            cargo.push(self._registry(), self._place.repository, spec.id.ulid, load.blobs, self._cluster.mark)
        try:
            self._persist(parts, load, login)
        except ConnectionLost:
            raise  # it may have happened: whoever asks finds it by its name
        except BaseException:  # Ctrl-C, too: nothing stays
            for part in parts:
                with contextlib.suppress(ClustrixError):
                    self._cluster.delete(self._cluster.path("jobs", part.name), _BACKGROUND)
            raise
        return " ".join(f"{self._cluster.space}/{part.name}" for part in parts)

    def preview(self, spec: JobSpec) -> str:
        """Show the Job as YAML; what it mounts is made when it is submitted."""
        import yaml

        parts = manifest.parts(self._order(spec, None, None, pull=False))
        return str(yaml.safe_dump_all(map(manifest.job, parts), sort_keys=False))

    def status(self, jobs: Sequence[JobRecord]) -> Mapping[JobId, Mapping[int, TaskStatus]]:
        """Ask once for all jobs, and give up those that can never start: they are suspended, with the reason."""
        wanted = names.selector([job.id.ulid for job in jobs])
        found: dict[str | None, list[Document]] = {}
        for part in self._cluster.jobs(wanted):
            found.setdefault(names.ulid_of(part), []).append(part)
        there = [job for job in jobs if job.id.ulid in found]
        # What has succeeded is known from the Job.
        place, only = self._cluster.path("pods"), "status.phase!=Succeeded"
        seen: dict[str, list[Document]] = {job.id.ulid: [] for job in there}
        if any(fate.unfinished(part) for job in there for part in found[job.id.ulid]):
            for pod in self._cluster.listing(place, labelSelector=wanted, fieldSelector=only)[0]:
                ulid = names.ulid_of(pod)
                if ulid in seen:
                    seen[ulid].append(pod)
        told = {job.id: self._tasks(job, found[job.id.ulid], seen[job.id.ulid]) for job in there}
        return told | {job.id: _cancelled(job) for job in jobs if job.id in self._removed and job not in there}

    def cancel(self, jobs: Sequence[JobRecord]) -> None:
        """Mark and suspend the jobs, end their pods, and wait until these are gone; BackendError if one is not."""
        change = {"metadata": {"annotations": {names.CANCELLED: "true"}}, "spec": {"suspend": True}}
        ids = {job.id.ulid: job.id for job in jobs}
        selectors = [
            names.selector(list(ids)[start : start + names.SELECTED]) for start in range(0, len(ids), names.SELECTED)
        ]
        for part in (part for selector in selectors for part in self._cluster.jobs(selector)):
            place = self._cluster.path("jobs", part["metadata"]["name"])
            self._cluster.patch(place, change)
            if names.QUEUE in part["metadata"]["labels"]:
                self._cluster.delete(place, _BACKGROUND)  # Kueue would start it again
                self._removed.add(ids[names.ulid_of(part) or ""])
        for selector in selectors:
            self._end_pods(selector)

    def _end_pods(self, selector: str) -> None:
        pods = self._cluster.path("pods")
        self._cluster.delete(pods, {"gracePeriodSeconds": _GRACE}, labelSelector=selector, fieldSelector=_ACTIVE)
        deadline = time.monotonic() + _GONE
        while left := self._going(pods, selector):
            if time.monotonic() > deadline:
                raise BackendError(f"not gone after {_GONE:.0f} s: {left[:3]}", remedy="Their node may not answer.")
            time.sleep(_LOOK)

    def _going(self, pods: str, selector: str) -> list[str]:
        """Name the pods that run or are being deleted; what failed before stays, with its log."""
        found = self._cluster.listing(pods, labelSelector=selector, fieldSelector="status.phase!=Succeeded")[0]
        return [
            pod["metadata"]["name"]
            for pod in found
            if pod["status"].get("phase") != "Failed" or pod["metadata"].get("deletionTimestamp")
        ]

    def settle(self, job: JobRecord) -> None:
        """Let the cluster remove a job some time after its end: all that it left has been read."""
        given = {**self._place.defaults.backend_options, **_table(job.target.get("backend_options"))}
        seconds = options.read(given).ttl_seconds
        change = {"spec": {"ttlSecondsAfterFinished": seconds}}
        for part in self._cluster.jobs(names.selector([job.id.ulid])):
            self._cluster.patch(self._cluster.path("jobs", part["metadata"]["name"]), change)

    def _order(self, spec: JobSpec, record: str | None, load: cargo.Cargo | None, *, pull: bool) -> manifest.Order:
        """Put together what decides on the objects, and refuse what cannot be or is not allowed."""
        options.refuse(spec.resources, spec.mounts)
        asked = spec.resources.backend_options
        own = options.read(defaults.options(self._place.defaults, asked))
        image = self._place.seen_by_nodes(spec.image.reference or "") if spec.image else defaults.UNKNOWN_IMAGE
        if self._place.sink == "registry":
            _ = self._place.repository  # where outcomes go
        order = manifest.Order(
            spec=spec,
            options=own,
            image=image,
            defaults=self._place.defaults,
            sink=self._place.sink,
            courier=self._place.courier,
            bundles=tuple(load.bundles) if load else (_worker(spec),),
            pull_secret=pull,
            record=record,
        )
        if load:
            order = replace(order, files=tuple(name for name in load.secret if name != "key"))
        pod = manifest.job(order)["spec"]["template"]["spec"]
        defaults.check(
            self._place.defaults,
            spec.resources,
            asked,
            pod,
            mounts=spec.mounts,
            parallelism=order.parallelism,
            gpu_resource=own.gpu_resource,
        )
        return order

    def _persist(self, parts: Sequence[manifest.Order], load: cargo.Cargo, login: Credentials | None) -> None:
        """Make the objects; after a cut all is asked again, and finds what is there."""
        pause = _PAUSE
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(ConnectionLost):
                return self._make(parts, load, login)
            time.sleep(pause)
            pause *= 2
        return self._make(parts, load, login)

    def _make(self, parts: Sequence[manifest.Order], load: cargo.Cargo, login: Credentials | None) -> None:
        """Make the objects that are not there, in the order that leaves nothing behind."""
        cluster, order = self._cluster, parts[0]
        jobs = {part.name: self._made(part) for part in parts}
        owners = {name: job["metadata"]["uid"] for name, job in jobs.items()}
        for digest in order.bundles:  # after the Job that mounts them: `clustrix gc` sees it
            self._see_to_bundle(digest, load.bundles[digest])
        if login is not None:
            cluster.create(cluster.path("secrets"), manifest.pull_secret(order, owners, login))
        cluster.create(cluster.path("secrets"), manifest.secret(order, owners, self._secret(order, load)))
        for name, job in jobs.items():
            if names.QUEUE not in job["metadata"]["labels"]:  # else Kueue says when it begins
                cluster.patch(cluster.path("jobs", name), {"spec": {"suspend": False}})

    def _made(self, part: manifest.Order) -> Document:
        """Make a Job, or find the one that is there."""
        cluster = self._cluster
        job = cluster.create(cluster.path("jobs"), manifest.job(part)) or cluster.get(cluster.path("jobs", part.name))
        if job is None:
            raise ConnectionLost(f"the Job {part.name} was there and is gone")
        return job

    def _secret(self, order: manifest.Order, load: cargo.Cargo) -> dict[str, bytes]:
        held = dict(load.secret)
        if order.sidecar:
            held["own-key"] = derive(held["key"])
        if order.sink == "registry" or load.blobs:
            repository = self._place.pod_registry or self._place.repository
            login = _keychain(self._place.repository)
            if login is not None and login.identity_token:
                raise ConfigError(
                    f"the login for {self._place.repository} is an identity token, which pods cannot use",
                    remedy="Log in with a password or an access token, or set `store: podlog`.",
                )
            own = {"username": login.username, "password": login.password} if login else {}
            mark = {"namespace": self._cluster.mark} if self._cluster.mark else {}
            document = {"repository": repository, "insecure": self._place.insecure, **own, **mark}
            held["registry.json"] = json.dumps(document).encode()
        return held

    def _see_to_bundle(self, digest: str, content: bytes | Path) -> None:
        """Make the ConfigMap of a bundle, unless it is there."""
        name = names.bundle_name(digest)
        now = time.monotonic()
        if now - self._bundles.get(name, -_TRUSTED) < _TRUSTED:
            return
        place = self._cluster.path("configmaps")
        if self._cluster.get(self._cluster.path("configmaps", name), only_metadata=True) is None:
            data = content if isinstance(content, bytes) else content.read_bytes()
            self._cluster.create(place, manifest.bundle(digest, data))
        self._bundles[name] = now

    def _registry(self) -> Client:
        from clustrix.oci.client import Client

        host = self._place.repository.partition("/")[0]
        return Client(insecure=(host,) if self._place.insecure else ())

    def _login(self, spec: JobSpec) -> Credentials | None:
        """Find the login that nodes pull the image with, if they need ours."""
        given = {**self._place.defaults.backend_options, **spec.resources.backend_options}
        template = (self._place.defaults.pod_template.get("spec") or {}).get("imagePullSecrets")
        if given.get("image_pull_secrets") or template or spec.image is None or spec.image.reference is None:
            return None
        return _keychain(spec.image.reference)

    def _tasks(self, record: JobRecord, parts: Sequence[Document], pods: Sequence[Document]) -> dict[int, TaskStatus]:
        """Say where the tasks of one job stand; those of a Job that somebody removed are lost."""
        told = dict.fromkeys(range(record.workers), TaskStatus(state=State.LOST))
        for part in parts:
            own = [pod for pod in pods if names.offset_of(pod) == names.offset_of(part)]
            told |= self._part(record, part, own)
        return told

    def _part(self, record: JobRecord, job: Document, pods: Sequence[Document]) -> dict[int, TaskStatus]:
        told = fate.tasks(job, pods)
        if not fate.unfinished(job):
            return told
        patience = self._patience(record)
        end = self._doom(job, pods, patience)
        if end is None:
            reason, since = self._hindrance(pods) or ("", 0.0)
            if not reason or time.time() - since <= patience:
                return fate.waiting(told, reason) if reason else told
            end = End(kind=EndKind.UNSCHEDULABLE, message=reason)
        self._give_up(job, end)
        return fate.given_up(told, end)

    def _patience(self, record: JobRecord) -> int:
        given = {**self._place.defaults.backend_options, **_table(record.target.get("backend_options"))}
        return options.read(given).pending_seconds

    def _doom(self, job: Document, pods: Sequence[Document], patience: int) -> End | None:
        """Say why nothing of a job can ever start; None as long as something may."""
        if (end := fate.forsaken(job, time.time())) is not None:
            return end
        if not pods and fate.waits_for_pods(job):
            name = job["metadata"]["name"]
            events = self._cluster.listing(
                self._cluster.path("events"), fieldSelector=f"involvedObject.name={name},reason=FailedCreate"
            )[0]
            return fate.refused(events, time.time(), patience)
        if not fate.stuck(pods):
            return None
        return fate.doomed(pods, self._known_nodes(), time.time(), patience)

    def _hindrance(self, pods: Sequence[Document]) -> tuple[str, float] | None:
        """Say what keeps a node from making the containers of pods, and since when; a pod's status does not."""
        slow = fate.starting(pods, time.time())
        if slow is None:
            return None
        selector = f"involvedObject.name={slow['metadata']['name']}"
        return fate.hindered(self._cluster.listing(self._cluster.path("events"), fieldSelector=selector)[0])

    def _known_nodes(self) -> Sequence[Document] | None:
        """List the nodes; None where an account of the namespace may not."""
        now = time.monotonic()
        if self._nodes is None or now - self._nodes[0] > 60:  # noqa: PLR2004 - seconds
            try:
                self._nodes = now, self._cluster.listing("/api/v1/nodes")[0]
            except ClustrixError:
                self._nodes = now, None
        return self._nodes[1]

    def _give_up(self, job: Document, end: End) -> None:
        """Suspend a job that cannot start, so that it holds no place, and leave the reason on it."""
        text = json.dumps({"kind": end.kind.value, "message": end.message})
        change = {"metadata": {"annotations": {names.GIVEN_UP: text}}, "spec": {"suspend": True}}
        self._cluster.patch(self._cluster.path("jobs", job["metadata"]["name"]), change)


def _keychain(reference: str) -> Credentials | None:
    from clustrix.oci.auth import Keychain

    return Keychain().find(Reference.parse(reference).registry)


def _worker(spec: JobSpec) -> str:
    """Give the digest of the worker's bundle, as its command has it."""
    return next(word.split("/")[2] for word in spec.argv if word.startswith(names.BUNDLES_DIRECTORY))


def _cancelled(job: JobRecord) -> dict[int, TaskStatus]:
    return dict.fromkeys(range(job.workers), TaskStatus(state=State.CANCELLED, end=End(kind=EndKind.CANCELLED)))


def _table(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
