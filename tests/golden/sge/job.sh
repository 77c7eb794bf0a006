#!/bin/sh
# fit; rm -rf ~?#é, job 01ARZ3NDEKTSV4RRFFQ69G5FAV, tasks 0 to 49
#$ -S /bin/sh
#$ -N fit__rm_-rf_____-01ARZ3NDEKTSV4RRFFQ69G5FAV
#$ -o /dev/null
#$ -j y
#$ -t 1-50
#$ -tc 8
#$ -P proj
#$ -pe smp 4
#$ -l h_rt=93604,h_vmem=366211K,gpu=2
#$ -r n

task=$((SGE_TASK_ID + 0 - 1))
exec >>'/scratch/it'"'"'s mine/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/logs'/"$task".out 2>&1
trap : USR1 USR2 TERM
bash -lc 'task=$1; wrapper=$2; shift 2; module load "$@" || exit 1; exec sh "$wrapper" "$task"' bash "$task" '/scratch/it'"'"'s mine/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/task.sh' apptainer/1.4 cuda
code=$?
# 99 would queue the job again, and 100 leave it there as an error.
case $code in 99|100) code=1;; esac
exit $code
