"""What may be removed from a namespace, and what jobs still need."""

from clustrix.kubernetes import leftovers, names

OLD, NEW, NOW = "2026-01-01T00:00:00Z", "2027-01-15T07:59:00Z", 1_800_000_000.0
ENDED = {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": OLD}]}


def job(ulid, bundle, *, made=OLD, status=None, spec=None, offset=0, **metadata):
    notes = {names.BUNDLES: names.bundle_key(bundle)}
    labels = names.labels(ulid, offset)
    name = names.job_name(ulid, offset)
    return {
        "metadata": {"name": name, "creationTimestamp": made, "labels": labels, "annotations": notes} | metadata,
        "spec": spec or {},
        "status": status or {},
    }


def bundle(digest, made=OLD):
    labels = {names.BUNDLE: names.bundle_key(digest)}
    return {"metadata": {"name": names.bundle_name(digest), "creationTimestamp": made, "labels": labels}}


class Cluster:
    def __init__(self, jobs, bundles):
        self._jobs = jobs
        self._bundles = bundles
        self.deleted = []

    def path(self, kind, name=""):
        return f"{kind}/{name}"

    def jobs(self, selector):
        every = names.MANAGED_BY in selector
        return [job for job in self._jobs if every or job["metadata"]["labels"][names.JOB] in selector]

    def get(self, path, **_):
        return None if path == "secrets/clustrix-halfqueued" else {}

    def listing(self, path, **_):
        return self._bundles, "1"

    def delete(self, path, *_):
        self.deleted.append(path)


def test_the_old_goes_and_what_others_need_stays():
    a, b, c, d = ("sha256:" + letter * 64 for letter in "abcd")
    cluster = Cluster(
        [
            job("ENDED", a, status=ENDED),
            job("RUNS", b),
            job("YOUNG", a, made=NEW, status=ENDED),
            job("HALF", b, status=ENDED),
            job("HALF", b, offset=100),
            job("FORSAKEN", d, generation=1, spec={"suspend": True}),
            job("FORSAKEN", d, offset=100, status=ENDED),
            job("HALFQUEUED", d, spec={"suspend": False}, labels={names.QUEUE: "q", names.JOB: "halfqueued"}),
            job("QUEUED", b, generation=1, spec={"suspend": True}, labels={names.QUEUE: "q", names.JOB: "queued"}),
            job("CANCELLED", d, annotations={names.CANCELLED: "true", names.BUNDLES: names.bundle_key(d)}),
        ],
        [bundle(a), bundle(b), bundle(c), bundle(d), bundle("sha256:" + "e" * 64, made=NEW)],
    )
    found = leftovers.look(cluster, NOW - 86400)
    assert found.there == {"ENDED", "RUNS", "YOUNG", "CANCELLED", "HALF", "FORSAKEN", "QUEUED", "HALFQUEUED"}
    assert found.jobs.keys() == {"ENDED", "CANCELLED", "FORSAKEN", "HALFQUEUED"}
    assert found.kept == dict.fromkeys(("RUNS", "HALF", "QUEUED"), "it has not ended")
    assert found.bundles.keys() == {names.bundle_name(c), names.bundle_name(d)}


def test_what_is_needed_again_meanwhile_stays():
    a, b = ("sha256:" + letter * 64 for letter in "ab")
    parts = [job("ENDED", a, offset=offset, deletionTimestamp=NEW) for offset in (0, 100)]
    cluster = Cluster([*parts, job("NEW", a), job("GOES", b, deletionTimestamp=NEW)], [])
    gone = leftovers.remove(cluster, ["ENDED"], [names.bundle_name(a), names.bundle_name(b)])
    assert gone == [("jobs", "ENDED"), ("bundles", names.bundle_name(b))]
    assert cluster.deleted == ["jobs/clustrix-ended", "jobs/clustrix-ended-100", f"configmaps/{names.bundle_name(b)}"]
