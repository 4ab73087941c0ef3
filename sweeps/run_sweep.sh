#!/usr/bin/env bash
# Runs agents of a W&B sweep under Slurm:
#   wandb sweep sweeps/glue_sst2_sweep.yaml          prints ENTITY/PROJECT/SWEEP_ID
#   sbatch sweeps/run_sweep.sh ENTITY/PROJECT/SWEEP_ID
#SBATCH --job-name=t5-sweep
#SBATCH --nodes=1
#SBATCH --gres=gpu:1
#SBATCH --output=slurm-%x-%j.out
set -euo pipefail
if [ $# -ne 1 ]; then
  echo "Which sweep? sbatch sweeps/run_sweep.sh ENTITY/PROJECT/SWEEP_ID" >&2
  exit 2
fi
srun wandb agent --count 20 "$1"
