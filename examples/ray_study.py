"""Seeds of a study as tasks of Ray: on this machine, or on a cluster whose address is given.

    python examples/ray_study.py                    # a Ray of its own, two workers, a minute; writes runs/ray-study
    python examples/ray_study.py auto runs/shared   # the cluster that this node belongs to; a folder that all nodes see

Stopped, killed, or out of time, the same command goes on; so does the one without Ray: `leapverify study`.
"""

import sys

from leapverify import run_study
from leapverify.runs import execution
from leapverify.runs.progress import Progress


def tell(progress: Progress) -> None:
    if progress.note or progress.phase in ("checkpoint", "done"):
        print(f"seed {progress.seed}  {progress.step}/{progress.steps}  {progress.note or progress.phase}", flush=True)


def main(address: str | None, out: str) -> None:
    study = run_study(
        "tiny",
        out,
        seeds=[42, 43],
        steps=100,
        device="cpu",
        watcher=tell,
        execution=execution(f"ray:{address}" if address else "ray", None if address else 2),
    )
    for row in study.checkpoints:
        print(f"seed {row.seed}  step {row.step}  held-out loss {row.heldout_loss:.4f}  {row.regime}")
    print(f"report: {study.path / 'report.html'}")


if __name__ == "__main__":
    given = sys.argv[1:]
    if len(given) not in (0, 2):
        sys.exit("give an address and a run folder that all nodes see, or nothing")
    main(*(given or (None, "runs/ray-study")))
