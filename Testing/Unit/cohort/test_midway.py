"""The rigid midway space of several times: it agrees with all pairs and prefers no time."""

from __future__ import annotations

import itertools

import numpy as np
import phantoms
from wavemorph.cohort.longitudinal.midway import composed, inverted, midway_motions
from wavemorph.cohort.template.shape import RigidMotion


def motions(count: int = 4, seed: int = 0) -> list[RigidMotion]:
    generator = np.random.default_rng(seed)
    return [
        RigidMotion(phantoms.rotation(generator.uniform(-20, 20, 3)), generator.uniform(-40, 40, 3))
        for _ in range(count)
    ]


def between(to_times: list[RigidMotion], disturbance: float = 0.0) -> dict[tuple[int, int], RigidMotion]:
    """All ordered pairs, each disturbed by up to so many degrees and mm."""
    generator = np.random.default_rng(1)
    pairs = {}
    for i, j in itertools.permutations(range(len(to_times)), 2):
        error = RigidMotion(
            phantoms.rotation(disturbance * generator.uniform(-1, 1, 3)), disturbance * generator.uniform(-1, 1, 3)
        )
        pairs[i, j] = composed(error, composed(to_times[j], inverted(to_times[i])))
    return pairs


def same(first: RigidMotion, second: RigidMotion, tolerance: float = 1e-9) -> bool:
    return np.allclose(first.rotation, second.rotation, atol=tolerance) and np.allclose(
        first.translation, second.translation, atol=100 * tolerance
    )


def test_the_midway_space_agrees_with_all_pairs():
    pairs = between(motions())
    found = midway_motions(pairs, np.random.default_rng(2).normal(size=(4, 3)))
    for (i, j), motion in pairs.items():
        assert same(composed(found[j], inverted(found[i])), motion)


def test_the_midway_space_lies_as_the_times_lie_on_average():
    centers = np.random.default_rng(3).uniform(-50, 50, (4, 3))
    found = midway_motions(between(motions()), centers)
    mean = np.mean([motion.rotation for motion in found], axis=0)
    assert np.allclose(mean, mean.T, atol=1e-9)  # the nearest rotation to the mean is none
    back = [inverted(motion)(center) for motion, center in zip(found, centers)]
    assert np.allclose(np.mean(back, axis=0), centers.mean(0))


def test_the_order_of_the_times_does_not_matter():
    pairs, centers = between(motions(), disturbance=0.5), np.random.default_rng(4).uniform(-50, 50, (4, 3))
    order = [2, 0, 3, 1]
    reordered = midway_motions(
        {(order.index(i), order.index(j)): motion for (i, j), motion in pairs.items()}, centers[order]
    )
    for number, motion in enumerate(midway_motions(pairs, centers)):
        assert same(motion, reordered[order.index(number)])


def test_errors_of_the_pairs_average_out():
    true, exact = motions(8), between(motions(8))
    found = midway_motions(between(true, disturbance=1.0), np.zeros((8, 3)))
    for i, j in exact:
        rest = composed(composed(found[j], inverted(found[i])), inverted(exact[i, j]))
        assert np.degrees(np.arccos(min(1, (np.trace(rest.rotation) - 1) / 2))) < 0.75  # single pairs: up to 1.7
