"""What is done for one time, or for a pair of times. Each function runs in any process, and gets and leaves files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ...io.images import read_image
from ...io.result import Registration
from ...registration.deformable.optimizer import OptimizationProblem, OptimizationSchedule, PyramidLevel, optimize
from ...registration.linear.mattes import MattesRegistration, centroid_mm, scaled_affine, with_center
from ...registration.pipeline import register
from ...registration.similarity.base import ImageSimilarity
from ...settings import Settings
from ...spatial.displacement import compose, invert, jacobian_determinant, warp_image
from ...spatial.filters import smooth
from ...spatial.folding import remove_folds
from ...spatial.grid import WorkingGrid, array_from_tensor, tensor_from_array, tensor_from_image
from ...spatial.preprocessing import HEAD_EXTENT_MM, dilate, extent_mm, foreground
from ..subjects import Subject
from ..template.jobs import DISPLACEMENT, REGISTRATION, WARPED, updated_affine, updated_transform
from ..template.shape import RigidMotion, displacement_at_nodes

_GAIN_SIGMA_VOXELS = 10.0  # of the local means by which the bias fields of two scans are made equal
_WEIGHT_MARGIN_VOXELS = 3
_FINE_MM, _RIGID_STEP_MM, _RIGID_SAMPLES = 2.5, 0.5, 40_000  # for a head: voxels, first step, of mutual information
# Wide Gaussians: within one person changes are smooth, and narrower ones follow the noise.
_SCHEDULE = OptimizationSchedule(
    levels=(PyramidLevel(2, 40), PyramidLevel(1, 20)),
    fluid_sigma=4.0,
    elastic_sigma=1.0,
    same_subject_threshold=float("inf"),
    tolerance=0.0,
)


@dataclass(frozen=True)
class RigidJob:
    """Register two times rigidly, from the points of `fixed` to those of `moving`.

    start: a motion near the result, or None.
    """

    fixed: Subject
    moving: Subject
    settings: Settings
    start: RigidMotion | None = None


@dataclass(frozen=True)
class RefinementJob:
    """Refine the map from the midway space to a time.

    template: the mean of the times on `lattice`. count: of the times. folder: of this time, with what it looks like in
    the midway space (`WARPED`). update: folder of the last update of the midway space. nodes: where the map is needed.
    """

    template: Path
    count: int
    folder: Path
    update: Path
    lattice: WorkingGrid
    nodes: WorkingGrid


class SquaredDifferences(ImageSimilarity):
    """The negative mean squared difference, for two scans of one head by one protocol.

    Local correlation gains where the moving image is compressed or interpolated, so that noise of 2 % made a structure
    that had shrunk by 3 % appear smaller by 4.4 % in one direction and by 2.5 % in the other; squared differences gave
    3.1 % and 2.9 %.
    """

    def __init__(self, fixed: torch.Tensor, moving: torch.Tensor, weight: torch.Tensor):
        super().__init__(moving)
        self._fixed, self._weight = fixed, weight / weight.sum()

    def compare(self, warped: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `ImageSimilarity.compare`."""
        difference = self._fixed - warped
        weighted = self._weight * difference
        return -(weighted * difference).sum(), 2 * weighted


def register_rigidly(job: RigidJob) -> tuple[RigidMotion, dict[str, Any] | None]:
    """The motion, and the verdict on it where there was no start."""
    fixed = read_image(job.fixed.volume, f"volume of {job.fixed.name}")
    moving = read_image(job.moving.volume, f"volume of {job.moving.name}")
    if job.start is None:
        registration = register(fixed, moving, job.settings)
        return motion_of(registration.affine), registration.report["verdict"]
    inside = foreground(fixed)
    scale = extent_mm(inside) / HEAD_EXTENT_MM
    measure = MattesRegistration(fixed, moving, (None, None), job.settings.seed, scale)
    start = with_center(scaled_affine(job.start.transform(), 1 / scale), centroid_mm(inside) / scale)
    found = measure.refine_rigid(start, _FINE_MM, _RIGID_STEP_MM, samples=_RIGID_SAMPLES)
    return motion_of(scaled_affine(found, scale)), None


def motion_of(rigid: sitk.AffineTransform) -> RigidMotion:
    """A rigid SimpleITK transform as a motion."""
    return RigidMotion(np.reshape(rigid.GetMatrix(), (3, 3)), np.array(rigid.TransformPoint((0.0, 0.0, 0.0))))


def refine_time(job: RefinementJob) -> dict[str, Any]:
    """Align what a time looks like in the midway space with the mean of the other times, and add that to its map.

    The mean leaves this time out: its own noise would hold it where it is. All n times lie around their mean, so that
    (n - 1) / n of the way to the others is the way to the mean of all. Writes the map and its displacement at the
    nodes. Returns the correlation with the other times before and after, and the spacing.
    """
    template = sitk.ReadImage(str(job.template))
    mean = tensor_from_image(template)
    own = tensor_from_array(np.nan_to_num(np.load(job.folder / WARPED).astype(np.float32)))[None, None]
    others = (job.count * mean - own) / (job.count - 1)
    weight = dilate(tensor_from_image(foreground(template)), _WEIGHT_MARGIN_VOXELS)
    affine = updated_affine(job.folder, job.update)
    to_template = sitk.CompositeTransform(
        [sitk.Transform(affine.GetInverse()), updated_transform(job.folder, job.update)]
    )
    with torch.inference_mode():
        step = symmetric_displacement(others, own, weight)
        after = warp_image(own, step)
        displacement = remove_folds(compose(job.lattice.from_mm(to_template), step * ((job.count - 1) / job.count)))
        registration = Registration(
            affine, job.lattice.to_mm(displacement), None, None, None, report={"transform_type": "deformable"}
        )
        jacobian = array_from_tensor(jacobian_determinant(displacement))[array_from_tensor(weight)[0] > 0]
    registration.save(job.folder / REGISTRATION, volumes=(), fields=("displacement",))
    np.save(job.folder / DISPLACEMENT, displacement_at_nodes(registration.transform, job.nodes))
    return {
        "before": _correlation(others, own, weight),
        "similarity": _correlation(others, after, weight),
        "spacing_mm": max(job.lattice.spacing),
        "jacobian": [float(jacobian.min()), float(jacobian.max())],
    }


def symmetric_displacement(fixed: torch.Tensor, moving: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The displacement (1, 3, D, H, W), in voxels, that aligns moving to fixed: the mean of both directions.

    fixed, moving, weight: (1, 1, D, H, W), of one head and one contrast.
    """
    local = [smooth(image * weight, _GAIN_SIGMA_VOXELS) for image in (fixed, moving)]
    moving = moving * ((local[0] + 1e-3) / (local[1] + 1e-3))

    def make(fixed, moving, weight, level, same_subject, scanned=None):  # type: ignore[no-untyped-def]
        return SquaredDifferences(fixed, moving, weight)

    forward = optimize(OptimizationProblem(fixed, moving, weight), _SCHEDULE, make)
    backward = optimize(OptimizationProblem(moving, fixed, weight), _SCHEDULE, make)
    return invert(backward).add_(forward).mul_(0.5)


def _correlation(first: torch.Tensor, second: torch.Tensor, weight: torch.Tensor) -> float:
    inside = weight > 0
    return float(torch.corrcoef(torch.stack([first[inside], second[inside]]))[0, 1])
