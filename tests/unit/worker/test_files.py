"""The file functions inside a job look at what the job sees."""

import os

from clustrix import cluster, cluster_du, cluster_glob, cluster_ls


@cluster(target="nowhere", cores=2, parallel=True)
def measure(place):
    sizes, processes = {}, set()
    for path in cluster_glob("*.csv", place, target="nowhere"):
        sizes[path] = os.path.getsize(path)  # noqa: PTH202 - as people write it
        processes.add(os.getpid())
    return sizes, os.getpid() in processes, cluster_ls(place), cluster_du(place)


def test_a_loop_over_files_is_shared_out(site, tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    for number in range(4):
        (place / f"{number}.csv").write_text("x" * number)
    (place / "caf\udce9\n.txt").touch()
    sizes, alone, listed, used = site.call(measure, place)
    assert sizes == {f"{place}/{number}.csv": number for number in range(4)}
    assert not alone
    assert (listed, used) == (cluster_ls(place), cluster_du(place))
    assert used.total_bytes == 6
