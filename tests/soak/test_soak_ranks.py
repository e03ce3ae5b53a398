"""One of several ranks fails or differs, a hundred and fifty times; two hundred ways in which tensors are cut."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from leap_faults import ERRORS
from leapverify.predict import CATALOGUE, predictor
from nino_checkpoints import write_mlp
from processes import run_ranks
from rank_faults import KINDS, Case, Found, cases_of, judged
from rank_layouts import MESHES, tried_on
from soak._record import record, scale

COMMAND = "HYPOTHESIS_PROFILE=soak python -m pytest tests/soak/test_soak_ranks.py"
Outcome = tuple[Case, Found | None, str | None]
"""The case, what came of it, and what is wrong with that."""


def _outcomes(cases: Sequence[Case], patience_s: float = 60.0) -> list[Outcome]:
    try:
        every = run_ranks(cases[0].size, judged, cases, patience_s=patience_s)
    except AssertionError as error:
        return [(case, None, str(error)[-500:]) for case in cases]
    found: list[Outcome] = []
    for case, *of_ranks in zip(cases, *every, strict=True):
        one, wrong = of_ranks[0]
        told, ended = ([getattr(each, name) for each, _ in of_ranks] for name in ("told", "ended"))
        # Where the group of the passes is lost while the engine is built, every rank raises in its own words.
        same = len(set(told)) == 1 or (all(ended) and all(each.refused for each, _ in of_ranks))
        if not same or len(set(ended)) > 1 or (one.ended and None in told):
            wrong = f"told {told}, ended {ended}"
        one.fired = any(each.fired for each, _ in of_ranks)
        found.append((case, one, wrong))
    return found


@pytest.mark.failure(9, 10)
def test_a_rank_that_fails_or_differs() -> None:
    start, chance = time.perf_counter(), random.Random(10)
    outcomes: list[Outcome] = []
    for name, size in (("ddp", 2), ("ddp", 3), ("fsdp", 2), ("fsdp", 3)):
        # What fails before a pass that others are in already takes the group of the pass with it: see below.
        kinds = [each for each in KINDS if name == "ddp" or not each.startswith("after")]
        cases = cases_of(name, size, scale(40), chance, kinds)
        for begin in range(0, len(cases), 20):
            outcomes += _outcomes(cases[begin : begin + 20])
    for number in range(scale(12)):
        outcomes += _outcomes(cases_of("fsdp", 2 + number % 2, 1, chance, ["after a meeting"]), patience_s=3.0)
    fired = [each for each in outcomes if each[1] is None or each[1].fired]
    lost = [each for each in fired if each[2] is not None]
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for each in fired:
        groups[f"{each[0].way}, {each[0].size} ranks", each[0].kind].append(each)
    rows = [
        {
            "run": run, "fault": kind, "injected": len(of), "survived": sum(wrong is None for *_, wrong in of),
            "switched_off": sum(one is not None and one.told is not None and not one.refused for _, one, _ in of),
            "refused": sum(one is not None and one.refused for _, one, _ in of),
            "training_ended": sum(one is not None and one.ended for _, one, _ in of),
        }
        for (run, kind), of in sorted(groups.items())
    ]  # fmt: skip
    record(
        "ranks_failures",
        rows=[10],
        command=COMMAND,
        injected=len(fired),
        survived=len(fired) - len(lost),
        lost=len(lost),
        refused=sum(one is not None and one.refused and wrong is None for _, one, wrong in fired),
        seconds=time.perf_counter() - start,
        note=f"an error of {len(ERRORS)} classes on a random rank before or after a random meeting or in the loss, or a"
        " rank with other losses, votes, clock, count or options than the others, on 2 and 3 ranks; survived: all ranks"
        " say the same and leap alike, and end with the weights, moments and random streams, to the bit, of a run that"
        " leaps there and in which nothing goes wrong; where a rank fails before a pass in which the others wait"
        " (fully_shard), all say the same (while the engine is built: raise, each in its own words) and the training"
        " ends at the time limit of its own group",
        tables={"faults": rows},
    )
    assert not lost, lost


@pytest.mark.failure(11)
def test_any_layout_is_predicted_as_one_process_predicts_it(tmp_path: Path) -> None:
    start = time.perf_counter()
    file = write_mlp(tmp_path / "mlp.pt")
    names = [name for name in CATALOGUE if name != "nino"]  # which declines parts
    methods = {name: predictor(name, **({"file": file} if name == "nino-mlp" else {})) for name in names}
    tried, lost, worst, traits = 0, [], Counter[str](), []
    for size, meshes in MESHES.items():
        count = scale(80 if size < 4 else 40)

        def work(size: int = size, meshes: Any = meshes, count: int = count) -> list[dict[str, Any]]:
            return [tried_on(1000 * size + i, methods, meshes[i % len(meshes)]) for i in range(count)]

        for number, of_ranks in enumerate(zip(*run_ranks(size, work), strict=True)):
            tried += 1
            found = {name: [each["errors"][name] for each in of_ranks] for name in names}
            bad = {n: e for n, e in found.items() if any(isinstance(x, str) or not x <= 1e-6 for x in e)}
            lost += [(size, number, bad)] if bad else []
            for name, errors in found.items():
                worst[name] = max(worst[name], *(each for each in errors if not isinstance(each, str)), 0.0)
            traits.append({key: any(each[key] for each in of_ranks) for key in ("empty", "tied", "copied", "parts")})
    exact = sum(worst[name] == 0.0 for name in names)
    layouts = [{"layouts": key, "tried": sum(each[key] for each in traits)} for key in traits[0]]
    record(
        "ranks_layouts",
        rows=[11],
        command=COMMAND,
        tried=tried,
        survived=tried - len(lost),
        lost=len(lost),
        seconds=time.perf_counter() - start,
        note="random lists of tensors, plain, copied or cut along random dimensions of a mesh of 2, 3, 4 or 2 x 2"
        f" ranks, through {len(names)} predictors; survived: every rank's part within 1e-6 (relative where a weight or"
        " its step is above 1) of what one process predicts"
        f" ({exact} predictors equal to the bit in all; largest error {max(worst.values()):.1e}), or declined alike",
        tables={"layouts": layouts, "errors": [{"predictor": n, "largest": e} for n, e in sorted(worst.items()) if e]},
    )
    assert not lost, lost
