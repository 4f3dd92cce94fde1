"""The mean shape of several subjects: the mean of their positions after rigid alignment (generalized Procrustes).

A shape is what a map says about every point w of the template: its position in a subject. The mean is that of
positions, as the Procrustes mean is defined, so that affine and deformation are averaged together: rotation and
translation are free, scale, shear and deformation are unbiased.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch

from ...io.result import Registration
from ...spatial.displacement import border_taper
from ...spatial.folding import remove_folds
from ...spatial.grid import WorkingGrid, tensor_from_array
from ...spatial.inversion import invert_displacement_image

_ALIGNED_POINTS = 5000  # of the template, by which shapes are aligned
_MAX_ALIGNMENTS = 20
_ALIGNED_MM = 1e-4  # change of the mean at which the alignment ends


@dataclass(frozen=True)
class RigidMotion:
    """x -> rotation @ x + translation, LPS mm."""

    rotation: np.ndarray
    translation: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) -> (..., 3), LPS mm."""
        return points @ self.rotation.T + self.translation

    def transform(self) -> sitk.AffineTransform:
        """The same as a SimpleITK transform."""
        return linear_transform(self.rotation, self.translation)


@dataclass(frozen=True)
class ShapeUpdate:
    """The map from the points of a template to the mean shape, and how far it moves them.

    map: template points -> points of the mean shape, LPS mm; `map.inverse` is known.
    mean_mm, max_mm: of the displacement over the subject, without what is rigid.
    """

    map: Registration
    mean_mm: float
    max_mm: float


def linear_transform(matrix: np.ndarray, translation: np.ndarray) -> sitk.AffineTransform:
    """x -> matrix @ x + translation as a SimpleITK transform, LPS mm."""
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(np.asarray(matrix, float).ravel().tolist())
    affine.SetTranslation(np.asarray(translation, float).tolist())
    return affine


def rigid_fit(points: np.ndarray, targets: np.ndarray) -> RigidMotion:
    """The rigid motion that moves points (N, 3) nearest to targets (N, 3) in least squares (Kabsch, 1976)."""
    center, target = points.mean(0), targets.mean(0)
    u, _, vt = np.linalg.svd((points - center).T @ (targets - target))
    signs = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u @ signs @ vt).T
    return RigidMotion(rotation, target - rotation @ center)


def rigid_half(motion: RigidMotion) -> RigidMotion:
    """The rigid motion that gives `motion` when it is applied twice; the rotation is below half a turn."""
    eigenvalues, vectors = np.linalg.eig(motion.rotation)
    half = (vectors @ np.diag(np.sqrt(eigenvalues)) @ np.linalg.inv(vectors)).real
    return RigidMotion(half, np.linalg.solve(np.eye(3) + half, motion.translation))


def procrustes_alignment(shapes: Sequence[np.ndarray], pose: np.ndarray) -> list[RigidMotion]:
    """The rigid motions that align shapes, each (N, 3), to their common mean (Gower, 1975).

    pose: (N, 3), to which the mean itself is aligned: it decides where the mean lies, and not its shape.
    """
    motions = [rigid_fit(shape, pose) for shape in shapes]
    mean = _mean_of(shapes, motions)
    for _ in range(_MAX_ALIGNMENTS):
        before = mean
        motions = [rigid_fit(shape, mean) for shape in shapes]
        mean = _mean_of(shapes, motions)
        if np.abs(mean - before).max() < _ALIGNED_MM:
            break
    to_pose = rigid_fit(mean, pose)
    return [RigidMotion(to_pose.rotation @ each.rotation, to_pose(each.translation)) for each in motions]


def _mean_of(shapes: Sequence[np.ndarray], motions: Sequence[RigidMotion]) -> np.ndarray:
    return np.mean([motion(shape) for shape, motion in zip(shapes, motions)], axis=0)


def node_points(nodes: WorkingGrid) -> np.ndarray:
    """(D, H, W, 3): the LPS mm of the nodes of a grid."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in nodes.shape), indexing="ij", sparse=True)
    steps = nodes.direction * np.asarray(nodes.spacing)
    return (
        np.asarray(nodes.origin) + i[..., None] * steps[:, 0] + j[..., None] * steps[:, 1] + k[..., None] * steps[:, 2]
    )


def displacement_at_nodes(transform: sitk.Transform, nodes: WorkingGrid) -> np.ndarray:
    """(D, H, W, 3) float32: transform(w) - w in LPS mm at the nodes w."""
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat32, nodes.size, nodes.origin, nodes.spacing, nodes.direction.ravel().tolist()
    )
    return sitk.GetArrayFromImage(field)


def sampled_nodes(inside: np.ndarray, count: int = _ALIGNED_POINTS) -> np.ndarray:
    """At most `count` flat indices of the nodes in the mask `inside` (D, H, W), evenly spread."""
    indices = np.flatnonzero(inside)
    return indices[:: max(1, len(indices) // count)][:count]


def mean_shape(
    displacements: Iterable[np.ndarray],
    alignments: Sequence[RigidMotion],
    nodes: WorkingGrid,
) -> np.ndarray:
    """(D, H, W, 3) LPS mm: the mean of the aligned positions of each node.

    displacements: of each subject, (D, H, W, 3), as `displacement_at_nodes` makes them; read one at a time.
    """
    points = node_points(nodes)
    total = np.zeros_like(points)
    for displacement, motion in zip(displacements, alignments):
        total += motion(points + displacement)
    return total / len(alignments)


def mirrored_mean(positions: np.ndarray, nodes: WorkingGrid) -> np.ndarray:
    """The mean of positions (D, H, W, 3) and of those of the mirrored subjects, for a left-right symmetric shape.

    The mirror is the plane through the middle of the grid, across its first axis.
    """
    return 0.5 * (positions + mirrored_points(positions[:, :, ::-1], nodes))


def mirrored_points(points: np.ndarray, nodes: WorkingGrid) -> np.ndarray:
    """Points (..., 3), LPS mm, mirrored at the middle plane of the grid across its first axis."""
    normal = nodes.direction[:, 0]
    middle = np.array(nodes.point([(n - 1) / 2 for n in nodes.size]))
    return points - 2 * ((points - middle) @ normal)[..., None] * normal


def shape_update(positions: np.ndarray, nodes: WorkingGrid, inside: np.ndarray) -> ShapeUpdate:
    """The map w -> positions(w) with its inverse.

    positions: (D, H, W, 3), LPS mm, of the nodes. inside: (D, H, W), the subject, over which the affine part of the
    map is fitted; beyond the grid the map goes on as this.
    """
    points = node_points(nodes)
    design = np.concatenate([points[inside], np.ones((int(inside.sum()), 1))], axis=1)
    solution = np.linalg.lstsq(design, positions[inside], rcond=None)[0]
    affine = linear_transform(solution[:3].T, solution[3])
    rest = (positions - solution[3]) @ np.linalg.inv(solution[:3]) - points
    to_voxels = np.linalg.inv(nodes.direction * np.asarray(nodes.spacing))
    with torch.inference_mode():
        displacement = tensor_from_array(np.stack([rest @ to_voxels[axis] for axis in (2, 1, 0)]))[None]
        displacement = displacement * border_taper(nodes.shape, displacement.device)
        image = nodes.to_mm(remove_folds(displacement))
    inverse, correction = invert_displacement_image(image)
    before = rigid_fit(points[inside], positions[inside])(points[inside])
    lengths = np.linalg.norm(positions[inside] - before, axis=-1)
    update = Registration(affine, image, inverse, correction, None, report={"transform_type": "deformable"})
    return ShapeUpdate(update, float(lengths.mean()), float(lengths.max()))
