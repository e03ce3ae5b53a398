"""What the authors of each predictor claim, and in which setting: to be held against the bench and the race.

A claim's kind says what decides it, and was written down before any of them was measured:

- `loss`: the predicted weights have a lower loss at once. Decided by the bench.
- `steps`: training with it needs fewer steps, tokens or seconds. Decided by the race against the shortened schedule.
- `end`: training with it ends lower after as many steps. Decided by the race against the baseline.
- `elsewhere`: of something that neither measures; it stays undecided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

PRETRAIN, FINETUNE, LORA = "pretrain", "finetune", "lora"


@dataclass(frozen=True, slots=True)
class Claim:
    """One published claim."""

    pattern: str
    """Of the predictor's name; * stands for an order, a rank, a shape or a file."""
    source: str
    claim: str
    setting: str
    kind: str
    """loss | steps | end | elsewhere."""
    tasks: tuple[str, ...]
    """Tasks of the bench that are of the claim's kind of training; empty where none is."""


CLAIMS: tuple[Claim, ...] = (
    Claim("linear", "Leap+Verify, arXiv 2602.19580", "lower held-out loss at 24 % (124 M) to 60-90 % (7B) of points",
          "training of GPT-2 and Qwen2.5, where it is stable", "loss", (PRETRAIN, FINETUNE)),
    Claim("taylor-*", "Kamarthi & Pittner, Neural Networks 12(9), 1999", "fewer steps of back-propagation",
          "small feed-forward networks", "steps", ()),
    Claim("plp", "Sci. Rep. 14:15197, 2024", "about +1 % accuracy after as many steps",
          "image classification", "end", ()),
    Claim("xgrad", "Guan et al., TPAMI 2024", "better results when gradients are taken at the predicted weights",
          "images and text; the weights themselves do not leap", "elsewhere", ()),
    Claim("lawa-*", "Kaddour 2022; Sanyal et al. 2023", "the mean of the last checkpoints is below the last",
          "pre-training of language models and image classification", "loss", (PRETRAIN,)),
    Claim("anneal-*", "WSM, arXiv 2507.17634", "merging under a constant rate beats a decay (WSD)",
          "pre-training; the race's arm anneal asks this", "elsewhere", (PRETRAIN,)),
    Claim("ema-posthoc", "Karras et al. 2024", "any averaging profile can be had after training",
          "diffusion models", "elsewhere", ()),
    Claim("ema-extrapolate", "cf. EMA-Nesterov, arXiv 2605.25395; SNOO, arXiv 2510.15830",
          "low-pass first, then extrapolate: lowers the loss where linear does not",
          "pre-training of 0.1 M parameters, Delta = K = 25", "loss", (PRETRAIN,)),
    Claim("lookahead", "Zhang et al. 2019", "ends lower after as many steps",
          "image classification, translation, language models", "end", (PRETRAIN,)),
    Claim("outer-nesterov", "DiLoCo; SNOO, arXiv 2510.15830", "fewer steps to the same loss",
          "pre-training, one worker or many", "steps", (PRETRAIN,)),
    Claim("rre", "Scieur et al.", "the combination has a lower loss than the last iterate",
          "smooth problems near their minimum, m = 15, lambda = 1e-5", "loss", ()),
    Claim("anderson", "Scieur et al.", "the combination has a lower loss than the last iterate",
          "smooth problems near their minimum, m = 15, lambda = 1e-5", "loss", ()),
    Claim("dmd-*", "Dogra & Redman 2020; Tano et al. 2020", "fewer steps of the optimizer",
          "small feed-forward networks", "steps", ()),
    Claim("rank1", "RELEX, arXiv 2605.21468", "15 % of the steps; holds up to 20 times beyond the window",
          "reinforcement learning with verifiable rewards", "steps", ()),
    Claim("linear-fit", "RLVR-Linearity, arXiv 2601.04537", "up to 6.1 times faster",
          "reinforcement learning with verifiable rewards", "steps", ()),
    Claim("fast-forward", "arXiv 2409.04206", "40 to 81 % of the time; fails at full rank",
          "low-rank fine-tuning", "steps", (LORA,)),
    Claim("introspection*", "Sinha et al. 2017", "fewer steps to the same accuracy",
          "small image classifiers", "steps", ()),
    Claim("wnn*", "Jang & Han, ICML 2023", "fewer steps to the same loss", "image classifiers and others", "steps", ()),
    Claim("nino-mlp*", "Knyazev et al., ICLR 2025", "up to about 50 % fewer steps of Adam",
          "vision and language, constant learning rate", "steps", (PRETRAIN,)),
    Claim("nino*", "Knyazev et al., ICLR 2025", "up to about 50 % fewer steps of Adam",
          "vision and language, constant learning rate", "steps", (PRETRAIN,)),
)  # fmt: skip
"""In the order in which names are matched."""


def claim_of(predictor: str) -> Claim | None:
    """What is claimed of a predictor; None where nothing is."""
    return next((claim for claim in CLAIMS if fnmatchcase(predictor, claim.pattern)), None)
