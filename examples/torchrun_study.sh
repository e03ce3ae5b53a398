#!/bin/sh
# One model over two processes of this machine, each holding a part of every tensor (fully_shard, gloo on CPUs):
#
#     sh examples/torchrun_study.sh                        # about half a minute; writes runs/torchrun-study
#     sh examples/torchrun_study.sh runs/mine training.parallel=ddp
#
# The folder is that of any study: one process sweeps the sharded snapshots again, with other predictors.
# Given again, it goes on where it was; so does `leapverify study` in one process, or three ranks, in the same folder.
set -e
OUT=${1:-runs/torchrun-study}
[ $# -gt 0 ] && shift
PYTHON=${PYTHON:-python}

"$PYTHON" -m torch.distributed.run --nproc-per-node 2 -m leapverify study tiny --seeds 42 \
    training.steps=120 training.warmup_steps=10 \
    observe.interval_steps=20 model.layers=1 model.hidden=32 model.heads=2 training.sequence_length=64 \
    sweep.horizons=[5,10] sweep.predictors=[hold,linear,adam,rre] cascade.kinds=[] "$@" --out "$OUT"

"$PYTHON" -m leapverify sweep "$OUT" --predictors linear,taylor-3
