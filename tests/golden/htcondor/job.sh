#!/bin/sh
# fit; rm -rf ~?#é, job 01ARZ3NDEKTSV4RRFFQ69G5FAV, tasks 0 to 49
#CONDOR universe = vanilla
#CONDOR executable = /bin/sh
#CONDOR transfer_executable = false
#CONDOR should_transfer_files = NO
#CONDOR arguments = "'/scratch/it''s mine/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/script.sh' $(Process) $(Cluster).$(Process)"
#CONDOR getenv = HOME, PATH, USER, LOGNAME, SHELL, LANG
#CONDOR initialdir = /
#CONDOR output = /dev/null
#CONDOR error = /dev/null
#CONDOR batch_name = fit__rm_-rf_____-01ARZ3NDEKTSV4RRFFQ69G5FAV
#CONDOR max_materialize = 8
#CONDOR request_cpus = 4
#CONDOR request_memory = 1464844K
#CONDOR request_gpus = 2
#CONDOR accounting_group = proj
#CONDOR allowed_job_duration = 93604
#CONDOR job_max_vacate_time = 30
#CONDOR requirements = NumJobStarts == 0
#CONDOR periodic_remove = (JobStatus == 5 && (HoldReasonCode == 34 || HoldReasonCode == 46 || HoldReasonCode == 47)) || (JobStatus == 1 && NumJobStarts > 0)
#CONDOR queue 50

task=$((0 + ${1:-0}))
export CLUSTRIX_NATIVE_ID=$2
round=0
until grep -qs '/condor_.*slot' /proc/$$/cgroup || [ $round = 20 ]; do sleep 0.05; round=$((round + 1)); done
exec >>'/scratch/it'"'"'s mine/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/logs'/"$task".out 2>&1
exec bash -lc 'task=$1; wrapper=$2; shift 2; module load "$@" || exit 1; exec sh "$wrapper" "$task"' bash "$task" '/scratch/it'"'"'s mine/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/task.sh' apptainer/1.4 cuda
