#!/usr/bin/env bash
# Runs agents of a W&B sweep under Slurm, one per GPU of each node:
#   wandb sweep sweeps/glue_sst2_sweep.yaml          prints ENTITY/PROJECT/SWEEP_ID
#   sbatch sweeps/run_sweep.sh ENTITY/PROJECT/SWEEP_ID
#   sbatch --nodes 4 --ntasks-per-node 2 --gpus-per-task 4 sweeps/run_sweep.sh ENTITY/PROJECT/SWEEP_ID 50
# The second word is the number of trials of each agent (20). Every trial takes a free port and a
# folder of its own, so that agents of one machine do not meet. Without W&B or network:
#   sbatch sweeps/run_sweep.sh sweeps/glue_sst2_sweep.yaml 50      workers of run_local.py, 50 in all
#SBATCH --job-name=t5-sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=1-00:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "Which sweep? sbatch sweeps/run_sweep.sh ENTITY/PROJECT/SWEEP_ID [COUNT]" >&2
  exit 2
fi
source "$SLURM_SUBMIT_DIR/runs/slurm/requeue.sh"
case $1 in
  *.yaml) run_step srun python sweeps/run_local.py "$1" --count "${2:-20}" ;;
  *)
    bash "$SLURM_SUBMIT_DIR/sweeps/require_wandb.sh"
    run_step srun wandb agent --forward-signals --count "${2:-20}" "$1"
    ;;
esac
