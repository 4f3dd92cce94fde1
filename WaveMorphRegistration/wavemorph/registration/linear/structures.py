"""The affine that aligns the segmentations of two brains, by least squares on their probability maps (ours)."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from ...network.segmentation import STRUCTURES
from ...spatial.displacement import gradient
from ..segmentation.brain import BrainSegmentation, centroid, downsampled_maps, matrix_of
from ..segmentation.plausibility import MAX_ROTATION_OF_STARTS_DEG, ROTATION_TOLERANCE_DEG, angle_between_deg

_COARSE_MM, _FINE_MM = 8.0, 4.0
_COARSE_STEPS, _FINE_STEPS = 25, 12
_REFINED_STARTS = 3
_LENGTH_SCALE_MM = 50.0  # makes the twelve parameters comparable in size
_MIN_STEP = 0.02  # in these parameters; a smaller step ends the descent
_MAX_DAMPING = 1e4


def align_structures(
    fixed: BrainSegmentation, moving: BrainSegmentation, start: sitk.AffineTransform | None = None
) -> tuple[sitk.AffineTransform, float]:
    """(affine, mean soft Dice under it): fixed points -> moving points, LPS mm.

    Minimizes the squared difference of the probability maps by the Levenberg-Marquardt method, from `start`, or from
    the best of rotations about the centroids of the two brains.
    """
    coarse, fine = (_SoftSegmentationCost(fixed, moving, spacing) for spacing in (_COARSE_MM, _FINE_MM))
    starts = [start] if start is not None else _starts(fixed, moving)
    best = sorted((matrix_of(each) for each in starts), key=coarse.cost)[:_REFINED_STARTS]
    found = [coarse.levenberg_marquardt(matrix, _COARSE_STEPS) for matrix in best]
    matrix = fine.levenberg_marquardt(min(found, key=coarse.cost), _FINE_STEPS)
    return _affine_of(matrix), fine.mean_soft_dice(matrix)


def structure_dice(fixed: BrainSegmentation, moving: BrainSegmentation, affine: sitk.Transform) -> float:
    """Mean soft Dice of the structures under an affine, fixed points -> moving points, LPS mm."""
    return _SoftSegmentationCost(fixed, moving, _FINE_MM).mean_soft_dice(matrix_of(affine))


class _SoftSegmentationCost:
    """The squared difference of probability maps at one resolution, in and near the fixed brain.

    Matrices are 4x4, fixed LPS mm -> moving LPS mm. every: of so many points one is used.
    """

    def __init__(self, fixed: BrainSegmentation, moving: BrainSegmentation, spacing_mm: float, every: int = 1):
        maps, grid = downsampled_maps(fixed.probabilities, fixed.grid, spacing_mm)
        self._moving, self._moving_grid = downsampled_maps(moving.probabilities, moving.grid, spacing_mm)
        near = F.max_pool3d(1 - maps[:, :1], 5, 1, 2)[0, 0] > 0.1
        kji = near.nonzero()[::every]
        self._fixed = maps[0, 1:, near][:, ::every].double()
        ones = torch.ones(len(kji), 1)
        self._points = torch.cat([kji.flip(1), ones], 1).double() @ _as_tensor(grid.matrix).T
        amount = self._fixed.sum(1).clamp(min=1)
        self._weights = (amount.rsqrt() / amount.rsqrt().mean())[:, None]  # small structures count for more
        # of each structure along k, j, i
        self._gradients = torch.cat([gradient(self._moving[:, c : c + 1]) for c in range(1, len(STRUCTURES))], 1)

    def cost(self, matrix: np.ndarray) -> float:
        """The weighted squared difference; points outside the moving volume count as if it were empty there."""
        moving, within = self._sample(matrix, self._moving[:, 1:])
        squares = (self._weights * (moving - self._fixed) ** 2).sum(0)
        missing = (self._weights * self._fixed**2).sum(0)
        return float(torch.where(within, squares, missing).sum())

    def mean_soft_dice(self, matrix: np.ndarray) -> float:
        """Mean soft Dice of the structures of which at least a fifth lies within the moving volume."""
        moving, within = self._sample(matrix, self._moving[:, 1:])
        fixed, moving = self._fixed[:, within], moving[:, within]
        overlap, total = torch.minimum(fixed, moving).sum(1), fixed.sum(1) + moving.sum(1)
        known = fixed.sum(1) > 0.2 * self._fixed.sum(1)
        return float((2 * overlap / total.clamp(min=1e-6))[known].mean()) if known.any() else 0.0

    def levenberg_marquardt(self, matrix: np.ndarray, steps: int) -> np.ndarray:
        """The matrix after at most `steps` damped Gauss-Newton steps from `matrix`."""
        local, to_parameters = self._normalized_points()
        cost, damping, system = self.cost(matrix), 1e-2, None
        for _ in range(steps):
            if system is None:
                system = self._normal_equations(matrix, local)
            hessian, right = system
            damped = hessian + damping * torch.diag(hessian.diagonal() + 1e-9)
            step = np.array(torch.linalg.solve(damped, right).reshape(3, 4).tolist())
            proposed = matrix.copy()
            proposed[:3] += step @ to_parameters
            new_cost = self.cost(proposed)
            if new_cost < cost:
                matrix, cost, damping, system = proposed, new_cost, damping / 4, None
                if np.abs(step).max() < _MIN_STEP:
                    break
            else:
                damping *= 8
                if damping > _MAX_DAMPING:
                    break
        return matrix

    def _normalized_points(self) -> tuple[torch.Tensor, np.ndarray]:
        """(points (N, 4) about their mean in units of the length scale, the 4x4 that makes them so)."""
        mean = self._points[:, :3].mean(0)
        local = torch.cat([(self._points[:, :3] - mean) / _LENGTH_SCALE_MM, self._points[:, 3:]], 1)
        matrix = np.eye(4)
        matrix[:3, :3] /= _LENGTH_SCALE_MM
        matrix[:3, 3] = -np.array(mean.tolist()) / _LENGTH_SCALE_MM
        return local, matrix

    def _normal_equations(self, matrix: np.ndarray, local: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(Gauss-Newton Hessian (12, 12), residual gradient (12,)) of the twelve parameters."""
        to_index = _as_tensor(np.linalg.inv(self._moving_grid.matrix)[:3, :3])
        moving, within = self._sample(matrix, self._moving[:, 1:])
        slopes, _ = self._sample(matrix, self._gradients)
        slopes = slopes.view(-1, 3, len(local)).flip(1)  # along i, j, k
        slopes = torch.einsum("can,ab->cbn", slopes, to_index)  # per mm
        weights = self._weights * within
        curvature = torch.einsum("can,cbn,cn->nab", slopes, slopes, weights)
        residual_gradient = torch.einsum("can,cn->na", slopes, weights * (self._fixed - moving))
        hessian = torch.einsum("nab,nx,ny->axby", curvature, local, local).reshape(12, 12)
        return hessian, torch.einsum("na,nx->ax", residual_gradient, local).reshape(12)

    def _sample(self, matrix: np.ndarray, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(values (C, N) of moving maps at the mapped points, whether each point lies within the moving volume)."""
        to_index = _as_tensor(np.linalg.inv(self._moving_grid.matrix) @ matrix)
        ijk = (self._points @ to_index.T)[:, :3]
        last = torch.tensor(self._moving_grid.size, dtype=torch.float64) - 1
        points = (ijk / last * 2 - 1).to(maps.dtype)
        values = F.grid_sample(maps, points.view(1, 1, 1, -1, 3), align_corners=True)[0, :, 0, 0]
        return values.double(), ((ijk >= 0) & (ijk <= last)).all(1)


def _starts(fixed: BrainSegmentation, moving: BrainSegmentation) -> list[sitk.AffineTransform]:
    """Rotations about the centroids of the two brains, scaled by the ratio of their sizes.

    Around the identity, and around the rotation between the lattices on which the two were segmented, if there is one.
    """
    brains = [1 - each.probabilities[:, :1] for each in (fixed, moving)]
    pivot, target = (centroid(brain, each.grid) for brain, each in zip(brains, (fixed, moving)))
    scale = (moving.volumes_ml()[1:].sum() / fixed.volumes_ml()[1:].sum()) ** (1 / 3)
    bases = [np.eye(3)]
    if angle_between_deg(fixed.grid.direction, moving.grid.direction) > ROTATION_TOLERANCE_DEG:
        bases.append(moving.grid.direction @ fixed.grid.direction.T)
    starts = []
    for base in bases:
        for angles in np.ndindex(3, 3, 3):
            rotation = sitk.Euler3DTransform()
            rotation.SetRotation(*(np.radians(MAX_ROTATION_OF_STARTS_DEG) * (np.array(angles) - 1)).tolist())
            matrix = np.reshape(rotation.GetMatrix(), (3, 3)) @ base * float(np.clip(scale, 0.8, 1.25))
            start = sitk.AffineTransform(3)
            start.SetCenter(pivot.tolist())
            start.SetMatrix(matrix.ravel().tolist())
            start.SetTranslation((target - pivot).tolist())
            starts.append(start)
    return starts


def _affine_of(matrix: np.ndarray) -> sitk.AffineTransform:
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(matrix[:3, :3].ravel().tolist())
    affine.SetTranslation(matrix[:3, 3].tolist())
    return affine


def _as_tensor(matrix: np.ndarray) -> torch.Tensor:
    """float64, without torch's numpy bridge."""
    return torch.tensor(matrix.tolist(), dtype=torch.float64)
