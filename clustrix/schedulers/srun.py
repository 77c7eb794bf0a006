"""srun(1): start the command of a task once for every rank, as MPI programs and ``torch.distributed`` need it.

The wrapper stays outside of it, one for all ranks. What rank 0 left is an outcome once srun says that all ranks ended
well; when one does not, the others are ended.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clustrix.errors import UnparsableOutput

if TYPE_CHECKING:
    from clustrix.model.job import JobSpec
    from clustrix.model.paths import JobPaths
    from clustrix.transports.base import Completed

# srun kills its step when it is told to terminate; scancel tells the ranks, and the batch script nothing.
_LAUNCH = """
outcomes=$1 ranks=$2 again=$3 mpi=$4 cores=$5 rank=$6
shift 6
for task; do :; done
mine=$ranks/$task
[ "$again" = no ] || rm -rf "$mine"
mkdir -p "$ranks" && mkdir "$mine" || exit 73
MASTER_ADDR=$(uname -n) MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
srun --mpi="$mpi" --kill-on-bad-exit=1 --cpus-per-task="$cores" --label sh -c "$rank" rank "$@" &
child=$!
for signal in TERM USR1 USR2; do
  trap "scancel --quiet --signal=$signal $SLURM_JOB_ID" $signal
done
while :; do
  wait $child
  code=$?
  kill -0 $child 2>/dev/null || break
done
[ $code = 0 ] || exit $code
for file in "$mine"/*.pkl "$mine"/*.json; do
  [ ! -e "$file" ] || mv -f "$file" "$outcomes/" || exit 74
done
rm -rf "$mine"
"""
# Names as torchrun has them. Ranks of one node are in containers of their own: shared memory, munge's socket and the
# files of the site's PMIx server are not in them.
_RANK = """
RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID CLUSTRIX_RANKS=$SLURM_NTASKS
: "${PMIX_MCA_gds=hash}" "${PMIX_MCA_psec=native}" "${MPIR_CVAR_NOLOCAL=1}"
export RANK WORLD_SIZE LOCAL_RANK CLUSTRIX_RANKS PMIX_MCA_gds PMIX_MCA_psec MPIR_CVAR_NOLOCAL
exec "$@"
"""


def argv(spec: JobSpec, paths: JobPaths) -> tuple[str, ...]:
    """Give what stands before the command of a task."""
    ranks = paths.of_ranks("")
    again = "yes" if spec.resources.requeue else "no"
    settings = (paths.outcomes, ranks.rstrip("/"), again, spec.mpi or "none", str(spec.resources.cores), _RANK)
    return ("sh", "-c", _LAUNCH, "launch", *settings)


def parse_interfaces(completed: Completed) -> frozenset[str]:
    """Read what ``srun --mpi=list`` prints, on stderr before 22.05: ``none``, ``pmi2``, ``pmix``, ``pmix_v5``."""
    lines = f"{completed.stdout_text}\n{completed.stderr_text}".splitlines()
    words = {word for line in lines for word in re.findall(r"^(?:srun: )?\s*([a-z][a-z0-9_/]*)$", line)}
    for line in lines:
        if "versions available" in line:
            words |= set(re.split(r"[\s,]+", line.partition(":")[2].strip()))
    if completed.returncode != 0 or not words:
        raise UnparsableOutput(f"srun --mpi=list printed {completed.stderr_text or completed.stdout_text!r}")
    return frozenset(words)
