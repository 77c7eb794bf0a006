#!/bin/sh
# fit; rm -rf ~?#é, job 01ARZ3NDEKTSV4RRFFQ69G5FAV, tasks 0 to 49
#PBS -S /bin/sh
#PBS -N fit__rm_-rf_____-01ARZ3NDEKTSV4RRFFQ69G5FAV
#PBS -o /dev/null
#PBS -j oe
#PBS -t 0-49%8
#PBS -A proj
#PBS -l nodes=1:ppn=4:gpus=2
#PBS -l mem=1464844kb
#PBS -l walltime=26:00:04
#PBS -r n

task=$((0 + ${PBS_ARRAYID:-0}))
spooled=$(readlink "/proc/$$/fd/1")
case $spooled in *.OU) rm -f "$spooled";; esac
exec >>'/scratch/it'"'"'s mine/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/logs'/"$task".out 2>&1
(sleep 93543 && kill -XCPU $$ && sleep 59 && kill -TERM $$) </dev/null >/dev/null 2>&1 &
exec bash -lc 'task=$1; wrapper=$2; shift 2; module load "$@" || exit 1; exec sh "$wrapper" "$task"' bash "$task" '/scratch/it'"'"'s mine/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/task.sh' apptainer/1.4 cuda
