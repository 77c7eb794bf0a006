# As SGE sites have it: known to log-in shells alone.
export SGE_ROOT=/var/lib/gridengine SGE_CELL=default
