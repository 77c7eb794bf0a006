"""What may be removed from a namespace, and what jobs still need."""

from clustrix.kubernetes import leftovers, names

OLD, NEW, NOW = "2026-01-01T00:00:00Z", "2027-01-15T07:59:00Z", 1_800_000_000.0
ENDED = {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": OLD}]}


def job(ulid, bundle, *, made=OLD, status=None, **metadata):
    notes = {names.BUNDLES: names.bundle_key(bundle)}
    labels = names.labels(ulid)
    return {
        "metadata": {"name": names.job_name(ulid), "creationTimestamp": made, "labels": labels, "annotations": notes}
        | metadata,
        "spec": {},
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

    def jobs(self, _):
        return self._jobs

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
            job("CANCELLED", d, annotations={names.CANCELLED: "true", names.BUNDLES: names.bundle_key(d)}),
        ],
        [bundle(a), bundle(b), bundle(c), bundle(d), bundle("sha256:" + "e" * 64, made=NEW)],
    )
    found = leftovers.look(cluster, NOW - 86400)
    assert found.there == {"ENDED", "RUNS", "YOUNG", "CANCELLED"}
    assert found.jobs.keys() == {"ENDED", "CANCELLED"}
    assert found.kept == {"RUNS": "it has not ended"}
    assert found.bundles.keys() == {names.bundle_name(c), names.bundle_name(d)}


def test_what_is_needed_again_meanwhile_stays():
    a, b = ("sha256:" + letter * 64 for letter in "ab")
    cluster = Cluster([job("NEW", a), job("GOES", b, deletionTimestamp=NEW)], [])
    gone = leftovers.remove(cluster, ["ENDED"], [names.bundle_name(a), names.bundle_name(b)])
    assert gone == [("jobs", "ENDED"), ("bundles", names.bundle_name(b))]
    assert cluster.deleted == ["jobs/clustrix-ended", f"configmaps/{names.bundle_name(b)}"]
