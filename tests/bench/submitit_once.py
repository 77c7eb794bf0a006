"""Map short calls with submitit, on a log-in node, as its users do: ``submitit_once.py ITEMS``, the seconds it took."""

import sys
import time

import submitit


def same(number: int) -> int:
    return number


def main() -> None:
    items = int(sys.argv[1])
    executor = submitit.AutoExecutor(folder="submitit-logs", cluster="slurm")
    executor.update_parameters(timeout_min=10, slurm_array_parallelism=items)
    start = time.perf_counter()
    jobs = executor.map_array(same, range(items))
    assert [job.result() for job in jobs] == list(range(items))
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
