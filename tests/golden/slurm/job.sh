#!/bin/bash -l
# fit; rm -rf ~?#é, job 01ARZ3NDEKTSV4RRFFQ69G5FAV, tasks 0 to 49
#SBATCH --job-name=fit__rm_-rf_____-01ARZ3NDEKTSV4RRFFQ69G5FAV
#SBATCH --output=/scratch/it\'s\ mine/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/logs/%a.out
#SBATCH --open-mode=append
#SBATCH --array=0-49%8
#SBATCH --account=proj
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=1464844K
#SBATCH --time=1-02:00:04
#SBATCH --gres=gpu:2
#SBATCH --no-requeue
#SBATCH --signal=B:24@60

task=$((0 + ${SLURM_ARRAY_TASK_ID:-0}))
module load apptainer/1.4 cuda || exit
exec sh '/scratch/it'"'"'s mine/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/task.sh' "$task"
