"""Whether a segmentation is that of a brain, and how the brain is oriented, by comparison with the template (ours)."""

from __future__ import annotations

import numpy as np

from ...network.segmentation import STRUCTURES
from .brain import BrainSegmentation

# for each structure but the first: [LPS x, y, z of its centroid in mm, its volume in ml] in the training template
StructureAtlas = dict[str, list[float]]

RIGHT_ANTERIOR_SUPERIOR = np.diag([-1.0, -1.0, 1.0])  # columns are LPS vectors
MAX_ROTATION_OF_STARTS_DEG = 30.0
ROTATION_TOLERANCE_DEG = 10.0  # a brain rotated by less is segmented as well as one that is not
# Root mean square by which centroids miss those of the fitted template: 1 to 8 mm in heads, more in noise.
_MAX_SCATTER_MM = 10.0
# 1 to 3 mm in heads that are segmented well; 7 and 8 mm where a head on its side was segmented as an unrotated one.
_MAX_SCATTER_OF_ROTATED_MM = 5.0
# The mean probability of the likeliest structure is 0.76 and more in real heads, and 0.6 in noise.
_MIN_MEAN_MAX_PROBABILITY = 0.7
_MAX_VOLUME_RATIO = 5.0  # of one structure to that of the template, or the inverse
_MAX_VENTRICLE_RATIO = 20.0
_MIN_PRESENT = 6  # structures that must be found, where others are beyond the field of view
_FIELD_OF_VIEW_MARGIN_MM = 16.0  # from its edge, within which the centroid of a structure that is cut off may lie


def is_plausible_brain(segmentation: BrainSegmentation, atlas: StructureAtlas) -> bool:
    """Whether every structure is found with confidence, in about the size and place it has in a brain.

    Structures that the scan does not show, by the places of the others, may be missing.
    """
    if not passes_confidence(segmentation, atlas):
        return False
    if np.any(_volume_ratios(segmentation, atlas) > _max_ratios()):
        return False
    present = _present(segmentation, atlas)
    if present.sum() < _MIN_PRESENT or np.any(~present & ~_beyond_scan(segmentation, atlas)):
        return False
    return _centroid_scatter_mm(segmentation, atlas) < _MAX_SCATTER_MM


def is_converged(segmentation: BrainSegmentation, atlas: StructureAtlas) -> bool:
    """Whether it is a brain along the axes of the lattice on which it was segmented, so that the search may end.

    A large rotation against the axes of the volume is accepted only where the structures fit the template closely.
    """
    if not is_plausible_brain(segmentation, atlas):
        return False
    if rotation_in_lattice_deg(segmentation, atlas) >= ROTATION_TOLERANCE_DEG:
        return False
    rotation = angle_between_deg(RIGHT_ANTERIOR_SUPERIOR, head_axes(segmentation, atlas))
    return (
        rotation < MAX_ROTATION_OF_STARTS_DEG or _centroid_scatter_mm(segmentation, atlas) < _MAX_SCATTER_OF_ROTATED_MM
    )


def is_nearly_converged(segmentation: BrainSegmentation, atlas: StructureAtlas) -> bool:
    """Whether its structures fit the template closely and it is rotated by little against its lattice.

    In few slices the axes of a brain are known less exactly than its place, and a search would not end.
    """
    return (
        rotation_in_lattice_deg(segmentation, atlas) < 2 * ROTATION_TOLERANCE_DEG
        and _centroid_scatter_mm(segmentation, atlas) < _MAX_SCATTER_OF_ROTATED_MM
    )


def passes_confidence(segmentation: BrainSegmentation, atlas: StructureAtlas) -> bool:
    """Whether the network is confident, and all structures together are about as large as a brain."""
    usual = sum(volume for *_, volume in atlas.values())
    confident = mean_max_probability(segmentation) >= _MIN_MEAN_MAX_PROBABILITY
    return confident and 0.25 < segmentation.volumes_ml()[1:].sum() / usual < 2.5


def mean_max_probability(segmentation: BrainSegmentation) -> float:
    """The mean over the voxels of the brain of the probability of the likeliest structure; 0 without a brain."""
    brain = segmentation.probabilities[0, 0] < 0.5
    return float(segmentation.probabilities[0].amax(0)[brain].mean()) if brain.any() else 0.0


def head_axes(segmentation: BrainSegmentation, atlas: StructureAtlas) -> np.ndarray:
    """3x3, whose columns are the LPS unit vectors to the right, anterior and superior of the brain."""
    # left and right halves of a structure count as one, so that all centroids lie in one plane
    left, _, right = np.linalg.svd(_fit_template_centroids(segmentation, atlas)[2][1:3].T, full_matrices=False)
    posterior, superior = (left @ right).T
    return np.stack([np.cross(posterior, superior), posterior, superior], 1) @ RIGHT_ANTERIOR_SUPERIOR


def rotation_in_lattice_deg(segmentation: BrainSegmentation, atlas: StructureAtlas) -> float:
    """The angle between the axes of the brain and those of the lattice on which it was segmented."""
    return angle_between_deg(segmentation.grid.direction, head_axes(segmentation, atlas))


def angle_between_deg(first: np.ndarray, second: np.ndarray) -> float:
    """The angle of the rotation from one frame (3x3, unit columns) to another."""
    return float(np.degrees(np.arccos(np.clip((np.trace(first.T @ second) - 1) / 2, -1, 1))))


def _fit_template_centroids(
    segmentation: BrainSegmentation, atlas: StructureAtlas
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(template centroids with ones, (N, 4); centroids here, (N, 3); the (4, 3) affine that fits them best).

    Of the structures that are present, or of all where too few are.
    """
    present = _present(segmentation, atlas)
    if present.sum() < _MIN_PRESENT:
        present[:] = True
    template, found = _template_centroids(atlas)[present], segmentation.centroids()[1:][present]
    return template, found, np.linalg.lstsq(template, found, rcond=None)[0]


def _template_centroids(atlas: StructureAtlas) -> np.ndarray:
    """(structures, 4): LPS mm and 1."""
    return np.array([[*atlas[name][:3], 1.0] for name in STRUCTURES[1:]])


def _volume_ratios(segmentation: BrainSegmentation, atlas: StructureAtlas) -> np.ndarray:
    """The volume of each structure, relative to that in the template."""
    return np.asarray(segmentation.volumes_ml()[1:] / np.array([atlas[name][3] for name in STRUCTURES[1:]]))


def _max_ratios() -> np.ndarray:
    return np.array([_MAX_VENTRICLE_RATIO if name == "ventricles" else _MAX_VOLUME_RATIO for name in STRUCTURES[1:]])


def _present(segmentation: BrainSegmentation, atlas: StructureAtlas) -> np.ndarray:
    """Which structures are found in about the size that they have in a brain, or larger."""
    return np.asarray(_volume_ratios(segmentation, atlas) >= 1 / _max_ratios())


def _beyond_scan(segmentation: BrainSegmentation, atlas: StructureAtlas) -> np.ndarray:
    """Which structures the scan cuts off, where the others show that they are: near or beyond its edge."""
    places = _template_centroids(atlas) @ _fit_template_centroids(segmentation, atlas)[2]
    ones = np.ones((len(places), 1))
    indices = (np.linalg.inv(segmentation.grid.matrix) @ np.hstack([places, ones]).T).T[:, :3]
    margin = _FIELD_OF_VIEW_MARGIN_MM / np.array(segmentation.grid.spacing)
    last = np.array(segmentation.grid.size) - 1
    return np.asarray(np.any((indices < margin) | (indices > last - margin), axis=1))


def _centroid_scatter_mm(segmentation: BrainSegmentation, atlas: StructureAtlas) -> float:
    """Root mean square distance of the centroids to those of the fitted template."""
    template, found, affine = _fit_template_centroids(segmentation, atlas)
    return float(np.sqrt(((template @ affine - found) ** 2).sum(1).mean()))
