"""A synthetic population: one template, deformed for each subject by a known map. For trials, tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from ..training.known_deformation import Difference, SyntheticPair, make_pair

SUBJECT = Difference(
    deformation_mm=3.0, rotation=6.0, translation_mm=5.0, scale=0.05, spacing_mm=(1.0, 1.0, 1.0), obliqueness=5.0
)


def make_population(
    template: sitk.Image, count: int, seed: int = 0, difference: Difference = SUBJECT
) -> Iterator[SyntheticPair]:
    """`count` pairs of the template ("fixed") and a subject ("moving") with the map between them ("truth").

    truth: template points -> subject points, LPS mm. Subject n depends on the seed and n alone. Contrast (an exponent),
    bias field and noise differ between subjects, as between scans of one protocol.
    """
    for number in range(count):
        gamma = float(np.exp(np.random.default_rng((seed, number)).uniform(-0.25, 0.25)))
        changed = replace(difference, gamma=difference.gamma / SUBJECT.gamma * gamma, bias=0.1)
        yield make_pair(template, changed, seed * 100_003 + number)
