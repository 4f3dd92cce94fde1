"""The rigid midway space of several times, from the rigid transforms between all pairs of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..template.shape import RigidMotion, rigid_half


def midway_motions(pairs: Mapping[tuple[int, int], RigidMotion], centers: Sequence[np.ndarray]) -> list[RigidMotion]:
    """The rigid motion from the midway space to each time that agrees best with all pairs.

    All times are treated alike: rotations by the spectrum of the matrix of all pairs (Singer, 2011), translations by
    least squares. The midway space lies as the times lie on average.

    Parameters:
        pairs: (i, j) -> points of time i to points of time j, LPS mm, for all ordered pairs.
        centers: of the subject at each time, (3,) LPS mm.
    """
    count = len(centers)
    between = {(i, j): _mean_of_both(pairs[i, j], pairs[j, i]) for i in range(count) for j in range(count) if i != j}
    blocks = np.eye(3 * count)
    for (i, j), motion in between.items():
        blocks[3 * j : 3 * j + 3, 3 * i : 3 * i + 3] = motion.rotation
    _, vectors = np.linalg.eigh(0.5 * (blocks + blocks.T))
    leading = vectors[:, -3:]
    if np.linalg.det(leading[:3]) < 0:
        leading = leading * [-1, 1, 1]
    rotations = np.array([nearest_rotation(leading[3 * n : 3 * n + 3]) for n in range(count)])
    rotations = rotations @ nearest_rotation(rotations.sum(0)).T
    return _with_translations(rotations, between, np.asarray(centers, float))


def _with_translations(
    rotations: np.ndarray, between: Mapping[tuple[int, int], RigidMotion], centers: np.ndarray
) -> list[RigidMotion]:
    """Translations t with t_j = R_j R_i^-1 t_i + t_ij for all pairs, in least squares."""
    count = len(rotations)
    rows, values = [], []
    for (i, j), motion in between.items():
        row = np.zeros((3, 3 * count))
        row[:, 3 * j : 3 * j + 3] = np.eye(3)
        row[:, 3 * i : 3 * i + 3] = -rotations[j] @ rotations[i].T
        # about the centers, so that errors of rotations do not become translations
        rows.append(row)
        values.append(motion(centers[i]) - rotations[j] @ rotations[i].T @ centers[i])
    translations = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0].reshape(count, 3)
    middle = np.mean([r.T @ (c - t) for r, t, c in zip(rotations, translations, centers)], axis=0)
    shift = middle - centers.mean(0)
    return [RigidMotion(rotation, rotation @ shift + t) for rotation, t in zip(rotations, translations)]


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """The rotation nearest to a 3x3 matrix."""
    u, _, vt = np.linalg.svd(matrix)
    return u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt


def _mean_of_both(forward: RigidMotion, backward: RigidMotion) -> RigidMotion:
    """The motion halfway between one direction and the inverse of the other."""
    # forward^-1 after the inverse of backward, halved, and forward again
    rest = composed(inverted(forward), inverted(backward))
    return composed(forward, rigid_half(rest))


def inverted(motion: RigidMotion) -> RigidMotion:
    """The inverse motion."""
    return RigidMotion(motion.rotation.T, -motion.rotation.T @ motion.translation)


def composed(outer: RigidMotion, inner: RigidMotion) -> RigidMotion:
    """x -> outer(inner(x))."""
    return RigidMotion(outer.rotation @ inner.rotation, outer(inner.translation))
