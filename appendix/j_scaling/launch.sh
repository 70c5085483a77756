#!/bin/sh
# Train on several machines. Run this on each of them, at about the same time, with equal settings:
#
#     NODES=2 MEET=10.0.0.1:29500 RUN_ID=monday ./launch.sh SHARDS OUT --parallel fsdp
#
# Every machine needs the same code, the same packages and the same SHARDS. OUT must be one folder
# that all of them see, on a network disk: after a failure all read the checkpoint that rank 0 wrote.
set -eu

# What to set.
: "${NODES:=1}"            # machines; MIN:MAX lets the run go on with fewer after one has died
: "${MEET:=localhost:0}"   # HOST:PORT on which they meet. HOST is one of the machines (any) by a
                           # name or address that all can reach; PORT is free there, and its
                           # firewall lets the others in. localhost:0 serves one machine alone.
: "${RUN_ID:=gpt}"         # equal on all machines, another one for each run
: "${RESTARTS:=3}"         # how often all workers are started again when one has died
: "${PYTHON:=python}"
if [ -z "${PROCESSES:-}" ]; then   # on this machine: one for each GPU, or one where there is none
    PROCESSES=$("$PYTHON" -c 'import torch; print(max(1, torch.cuda.device_count()))')
fi

# Which network card the workers talk through, where there are several: `ip addr` lists them.
# A wrong guess shows as a run that hangs before its first step.
if [ -n "${CARD:-}" ]; then
    export GLOO_SOCKET_IFNAME="$CARD" NCCL_SOCKET_IFNAME="$CARD"
fi
# Under what address the others find this machine; to be set where its own name leads nowhere.
set -- "$(dirname "$0")/train.py" "$@"
if [ -n "${ADDRESS:-}" ]; then
    set -- --local-addr "$ADDRESS" "$@"
fi

# A fresh meeting place for each attempt. Without it, workers that are started again may find the
# addresses of the dead ones and wait for ever (PyTorch issue 135712; seen with torch 2.13).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# When it does not work: NCCL_DEBUG=INFO or TORCH_DISTRIBUTED_DEBUG=DETAIL says who waits for whom.
# NCCL_IB_DISABLE=1 takes InfiniBand out of the game, NCCL_P2P_DISABLE=1 direct copies between GPUs.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"   # several processes share one machine's cores

# Under Slurm, one task a machine (sbatch --nodes=2 --ntasks-per-node=1 --gpus-per-node=8):
#     export NODES=$SLURM_NNODES RUN_ID=$SLURM_JOB_ID
#     export MEET=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29500
#     srun ./launch.sh SHARDS OUT --parallel fsdp

exec "$PYTHON" -m torch.distributed.run --nnodes "$NODES" --nproc-per-node "$PROCESSES" \
    --rdzv-backend c10d --rdzv-endpoint "$MEET" --rdzv-id "$RUN_ID" --max-restarts "$RESTARTS" "$@"
