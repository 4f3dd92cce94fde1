"""The verdict on a registration: good, check or do not trust, with its reasons (ours).

A logistic regression on the evidence of the report. Testing/Benchmarks/calibration/calibrate_verdict.py fits it on one
half of right and wrong pairs; Testing/RELIABILITY.md counts the other half, and says what was chosen with both in view.
"""

from __future__ import annotations

import math

LEVELS = GOOD, CHECK, DO_NOT_TRUST = ("good", "check", "do not trust")
# Probability that the pair or its alignment is wrong, up to which a result is good, and up to which it is to be checked
_MAX_OF_GOOD, _MAX_OF_CHECK = 0.28, 0.7
_MIN_CONTRIBUTION = 0.5  # log-odds against the usual right pair, from which a number is a reason
# A linear map leaves the similarity low: of 23 right pairs one has a smaller margin, of 7 wrong ones none a larger one.
_MIN_MARGIN_OF_LINEAR = 0.04
# How much better a mirrored moving volume may agree (`laterality.mirrored_gain`). Right pairs gain nothing, mirrored
# ones 0.13 and more; bodies whose halves are alike gain by chance.
_MAX_MIRRORED_GAIN, _MAX_MIRRORED_GAIN_OF_CHECK = 0.05, 0.1
# Median of the expected error relative to the subject's extent, where it was asked for. Of 172 pairs with a small error
# none that is good otherwise is above 0.041, and of noisy brains none above 0.066; two that ended 5 and 6 mm off had
# 0.091 and 0.096.
_MAX_EXPECTED_ERROR = 0.075
_BIAS = -2.433
# (weight in the log-odds, mean of the right pairs) of each of `features`
_WEIGHTS: dict[str, tuple[float, float]] = {
    "similarity": (-0.217, 0.973),
    "margin": (-1.826, 0.512),
    "information": (-0.496, 2.144),
    "outlines": (-2.722, 0.891),
    "stretch": (8.555, 0.046),
    "displacement": (4.265, 0.415),
    "rigid part": (0.725, 0.211),
    "segmented": (-1.111, 0.6),
    "rotation": (1.804, 0.0),
    "unseen": (3.366, 0.01),
}
_NOT_ALIGNED = (
    "The volumes hardly agree more than misaligned copies of them do (local correlation {similarity:.2f}, misaligned "
    "{similarity_shifted:.2f}); they may show different anatomy, or the alignment has failed."
)
_MIRRORED = (
    "The volumes agree better where the moving one is mirrored (similarity higher by {gain:.3f}); left and right "
    "may be exchanged in one of the files."
)
_LARGE_ERROR = "In half of the subject the expected error is above {:.3g} mm; compare both volumes closely."
_REASONS = {
    "similarity": _NOT_ALIGNED,
    "margin": _NOT_ALIGNED,
    "information": _NOT_ALIGNED,
    "outlines": "The outlines of the two subjects overlap by only {outlines:.2f} (Dice).",
    "stretch": "The linear part stretches or shrinks lengths by up to {stretch_percent:.0f} %; check the voxel spacing "
    "that both files state.",
    "displacement": "The displacement is {displacement_mm:.3g} mm on average, far more than usual.",
    "rigid part": "The deformation holds a rigid motion of {rigid_mm:.3g} mm, so that the affine is doubtful.",
}


def features(report: dict) -> dict[str, float]:
    """The numbers of a report that decide the verdict, each bounded. "segmented": whether both brains were."""
    found, subject = report["evidence"], report["subject"]
    similarity = _clip(found["similarity"], 0.02, 0.98)
    ratio = max(found["information"], 1e-3) / max(found["information_shifted"], 1e-3)
    return {
        "similarity": math.log(similarity / (1 - similarity)),
        "margin": found["similarity"] - found["similarity_shifted"],
        "information": _clip(math.log(ratio), -1, 3),
        "outlines": _clip(found["outlines"], 0.5, 1),
        "stretch": min(found["stretch"], 0.7),
        "displacement": min(found["displacement"], 30) / 10,
        "rigid part": min(found["rigid_part"], 15) / 10,
        "segmented": float(report["segmentation"] is not None),
        "rotation": float(subject["rotation_deg"] > 45),
        "unseen": max(0.0, subject["unseen_percent"] - 30) / 70,
    }


def judge(report: dict, length_scale: float = 1.0) -> dict:
    """The entry "verdict" of a report: "level" (of `LEVELS`), "reasons" and "probability_wrong".

    The reasons are sentences, the weightiest first; there are none where the result is good. report: with all other
    entries, warnings included; a warning makes a good result one to check.
    length_scale: size of the subject relative to a head.
    """
    values = features(report)
    log_odds = {name: weight * (values[name] - usual) for name, (weight, usual) in _WEIGHTS.items()}
    probability = 1 / (1 + math.exp(-_clip(_BIAS + sum(log_odds.values()), -30, 30)))
    level = GOOD if probability <= _MAX_OF_GOOD else CHECK if probability <= _MAX_OF_CHECK else DO_NOT_TRUST
    reasons: list[str] = []
    if level != GOOD:
        reasons = _sentences(report["evidence"], log_odds, length_scale)
    elif report["transform_type"] != "deformable" and values["margin"] < _MIN_MARGIN_OF_LINEAR:
        level, reasons = CHECK, [_NOT_ALIGNED.format(**report["evidence"])]
    elif _expects_large_error(report):
        level, reasons = CHECK, [_LARGE_ERROR.format(report["expected_error"]["median_mm"])]
    elif report["warnings"]:
        level = CHECK
    best = _level_of_mirrored(report)
    level = max(level, best, key=LEVELS.index)
    if best != GOOD:
        reasons.insert(0, _MIRRORED.format(gain=report["mirrored_gain"]))
    reasons += report["warnings"]
    return {
        "level": level,
        "reasons": list(dict.fromkeys(reasons)),
        "probability_wrong": round(probability, 3),
    }


def _expects_large_error(report: dict) -> bool:
    """Whether an expected error, which is in the report on request only, is large beside the subject."""
    if "expected_error" not in report:
        return False
    extent_mm = math.prod(report["subject"]["extent_mm"]) ** (1 / 3)
    return report["expected_error"]["median_mm"] > _MAX_EXPECTED_ERROR * extent_mm


def _level_of_mirrored(report: dict) -> str:
    """The best level that a pair may have that would agree better if one of its volumes were mirrored."""
    gain = report.get("mirrored_gain") or 0.0
    return GOOD if gain <= _MAX_MIRRORED_GAIN else CHECK if gain <= _MAX_MIRRORED_GAIN_OF_CHECK else DO_NOT_TRUST


def _sentences(found: dict[str, float], log_odds: dict[str, float], length_scale: float) -> list[str]:
    """Of the numbers that speak against the result; of the one that does most, where none speaks clearly."""
    numbers = {
        **found,
        "stretch_percent": 100 * (math.exp(found["stretch"]) - 1),
        "displacement_mm": found["displacement"] * length_scale,
        "rigid_mm": found["rigid_part"] * length_scale,
    }
    weightiest = sorted(_REASONS, key=lambda name: -log_odds[name])
    clear = [name for name in weightiest if log_odds[name] >= _MIN_CONTRIBUTION]
    return [_REASONS[name].format(**numbers) for name in clear or weightiest[:1]]


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
