"""Local normalized cross-correlation (paper section 3.8) with its exact derivative."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from ...spatial.displacement import gradient
from ...spatial.filters import box_mean, box_mean_of_slabs
from ...system.strategy import strategy_for
from .base import ImageSimilarity

_MIN_COVERAGE = 1e-3  # of a window, against division by zero where nothing was scanned
_FIELDS_OF_A_SLAB = 2  # that are worked on at a time
_MIN_PLANES = 2  # of a slab, for each plane that is needed on either side of it


class LocalCorrelation(ImageSimilarity):
    """Local normalized cross-correlation (LNCC): the weighted mean over windows of the correlation (paper section 3.8).

    fixed, moving: (1, 1, D, H, W), normalized to about [0, 1]. weight: (1, 1, D, H, W) in [0, 1], where voxels count.
    radius: windows have (2 radius + 1)^3 voxels.
    signed: True takes the coefficient itself, so that brighter must meet brighter. False takes its square, as the
        paper's loss does; windows may then also agree with reversed contrast.
    noise: variance added in each window, so that flat tissue is not matched by its noise.
    stride: windows are centered at every `stride` voxels and are 2 (radius // stride) + 1 strides wide. The derivative
        is exact. A stride of 2 takes a third of the time and aligns two subjects equally well.
    scanned: (1, 1, D, H, W) of 0 and 1, or bool: the voxels that both volumes show; None for all. Windows at the edge
        of a scan are then computed from the voxels in it, and count by their fraction.

    On a CPU all is computed in slabs that fit its cache, so that few fields of the size of the images are held.
    """

    def __init__(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        weight: torch.Tensor,
        radius: int = 3,
        signed: bool = True,
        noise: float = 1e-5,
        stride: int = 1,
        scanned: torch.Tensor | None = None,
    ):
        super().__init__(moving)
        self._fixed, self._radius, self._signed, self._noise = fixed, radius // stride, signed, noise
        self._stride = stride = min(stride, *fixed.shape[2:])
        self._size = tuple(n // stride for n in fixed.shape[2:])
        self._planes = self._planes_of_a_slab()
        self._scanned: torch.Tensor | None = None
        self._coverage: torch.Tensor | None = None
        if scanned is not None:
            coverage = torch.cat([part for _, part in self._means((scanned.float(), None))], 2)
            self._scanned, self._coverage = scanned, coverage
        self._mean, self._variance = (fixed.new_empty(1, 1, *self._size) for _ in range(2))
        for planes, moments in self._means((fixed, None), (fixed, fixed)):
            mean, square = moments.split(1, 1)
            self._mean[:, :, planes] = mean
            self._variance[:, :, planes] = (square - mean**2).clamp_(min=0).add_(noise)
        self._weight = weight if stride == 1 else F.avg_pool3d(weight, stride)
        self._total = (self._weight if self._coverage is None else self._weight * self._coverage).sum().clamp(min=1e-6)

    def value(self, displacement: torch.Tensor | None = None) -> float:
        """The value alone, without the cost of its derivative."""
        return float(torch.stack([part for _, _, _, part in self._correlations(self._warped(displacement))]).sum())

    def compare(self, warped: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `ImageSimilarity.compare`; warped: (1, 1, D, H, W)."""
        values: list[torch.Tensor] = []
        derivative = torch.zeros_like(warped)
        for planes, part in self._derivatives(warped, values):
            derivative[:, :, planes] = part
        return torch.stack(values).sum(), derivative

    def value_and_gradient(
        self, displacement: torch.Tensor, out: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Similarity.value_and_gradient`; slab by slab, without a field of the derivative by the warped image."""
        warped, values = self._warped(displacement), list[torch.Tensor]()
        depth, last = warped.shape[2], 0
        out = torch.empty_like(displacement) if out is None else out
        for planes, part in self._derivatives(warped, values):
            start, last = max(planes.start - 1, 0), planes.stop
            slope = gradient(warped[:, :, start : min(last + 1, depth)])
            torch.mul(slope[:, :, planes.start - start : last - start], part, out=out[:, :, planes])
        out[:, :, last:] = 0  # beyond the last whole stride
        return torch.stack(values).sum(), out

    def _derivatives(self, warped: torch.Tensor, values: list[torch.Tensor]) -> Iterator[tuple[slice, torch.Tensor]]:
        """Slab by slab: (planes, the derivative by each value of `warped`, (1, 1, d, H, W)); values: see `_terms`.

        It is a sum over the windows that contain the voxel, of the derivatives by their covariances and variances.
        """
        first = 0
        for sums in self._over_windows(self._terms(warped, values)):
            constant, by_covariance, by_variance = self._at_voxels(sums).split(1, 1)
            planes = slice(first, first + constant.shape[2])
            part = by_covariance.mul_(self._fixed[:, :, planes])
            part.addcmul_(by_variance, warped[:, :, planes], value=-1).add_(constant)
            yield planes, part if self._scanned is None else part.mul_(self._scanned[:, :, planes])
            first = planes.stop

    def _planes_of_a_slab(self) -> int:
        """Planes of windows that are computed at once: as many as fit the cache of a CPU, all on other devices."""
        block, (depth, _, _) = strategy_for(self._fixed.device).block_voxels, self._size
        if block is None or math.prod(self._size) <= block:
            return depth
        planes = block * depth // (_FIELDS_OF_A_SLAB * self._fixed.numel())
        return min(max(planes, _MIN_PLANES * (self._radius + 1)), depth)

    def _terms(self, warped: torch.Tensor, values: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        """(1, 3, d, h, w) slab by slab: of each window a constant, the derivative by covariance, and that by variance.

        values: receives the part of the value of each slab. The derivative by variance is times -2.
        """
        for planes, moments, by_covariance, value in self._correlations(warped):
            values.append(value)
            if not self._signed:
                by_covariance.mul_(2)
            mean, variance, covariance = moments.split(1, 1)  # overwritten
            by_variance = covariance.mul_(by_covariance).div_(variance)
            mean.mul_(by_variance).addcmul_(by_covariance, self._mean[:, :, planes], value=-1)
            variance.copy_(by_covariance)
            yield moments if self._coverage is None else moments.div_(self._covered(planes))

    def _correlations(self, warped: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Slab by slab: (planes, moments, derivative by the covariance of each window, part of the value).

        moments: (1, 3, d, h, w), mean and variance of `warped` in each window, and the covariance. The derivative is
        half of the true one where the coefficient is squared.
        """
        for planes, moments in self._means((warped, None), (warped, warped), (self._fixed, warped)):
            mean, variance, covariance = moments.split(1, 1)
            variance.addcmul_(mean, mean, value=-1).clamp_(min=0).add_(self._noise)
            covariance.addcmul_(self._mean[:, :, planes], mean, value=-1)
            weight = self._weight[:, :, planes]
            if self._coverage is not None:
                weight = weight * self._coverage[:, :, planes]
            weight = weight / self._total
            by_covariance = self._variance[:, :, planes] * variance
            if self._signed:
                by_covariance.rsqrt_().mul_(weight)
            else:
                torch.div(covariance, by_covariance, out=by_covariance).mul_(weight)
            yield planes, moments, by_covariance, (by_covariance * covariance).sum()

    def _means(self, *factors: tuple[torch.Tensor, torch.Tensor | None]) -> Iterator[tuple[slice, torch.Tensor]]:
        """Slab by slab: (planes, the mean of each product of factors over the scanned voxels of the windows).

        The means are (1, len(factors), d, h, w).
        """
        first = 0
        for means in self._over_windows(self._products(*factors)):
            planes = slice(first, first + means.shape[2])
            yield planes, means if self._coverage is None else means.div_(self._covered(planes))
            first = planes.stop

    def _products(self, *factors: tuple[torch.Tensor, torch.Tensor | None]) -> Iterator[torch.Tensor]:
        """(1, len(factors), d, h, w) slab by slab: the products of factors where it was scanned, means over strides."""
        depth, height, width = self._size
        for first in range(0, depth, self._planes):
            last = min(first + self._planes, depth)
            voxels = slice(first * self._stride, last * self._stride)
            scanned = None if self._scanned is None else self._scanned[:, :, voxels].float()
            slab = self._fixed.new_empty(1, len(factors), last - first, height, width)
            for target, (one, other) in zip(slab.split(1, 1), factors):
                product = target if self._stride == 1 else torch.empty_like(one[:, :, voxels])
                if other is None:
                    product.copy_(one[:, :, voxels])
                else:
                    torch.mul(one[:, :, voxels], other[:, :, voxels], out=product)
                if scanned is not None:
                    product.mul_(scanned)
                if self._stride > 1:
                    target.copy_(F.avg_pool3d(product, self._stride))
            yield slab

    def _covered(self, planes: slice) -> torch.Tensor:
        """The part of each window that was scanned, as a divisor."""
        assert self._coverage is not None
        return self._coverage[:, :, planes].clamp(min=_MIN_COVERAGE)

    def _over_windows(self, slabs: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The means of the windows, of slabs as `_products` cuts them."""
        if self._planes == self._size[0]:
            return (box_mean(whole, self._radius, out=whole) for whole in slabs)
        return box_mean_of_slabs(slabs, self._radius)

    def _at_voxels(self, terms: torch.Tensor) -> torch.Tensor:
        """The adjoint of the mean over strides; voxels beyond the last whole stride of a side are in no window."""
        if self._stride == 1:
            return terms
        spread = F.interpolate(terms / self._stride**3, scale_factor=self._stride, mode="nearest")
        rest = [n - covered for n, covered in zip(self._fixed.shape[3:], spread.shape[3:])]
        return F.pad(spread, (0, rest[1], 0, rest[0])) if any(rest) else spread
