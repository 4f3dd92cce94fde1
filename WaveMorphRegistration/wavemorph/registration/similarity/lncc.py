"""Local normalized cross-correlation (paper section 3.8) with its exact derivative."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...spatial.filters import box_mean
from .base import ImageSimilarity

_MIN_COVERAGE = 1e-3  # of a window, against division by zero where nothing was scanned


class LocalCorrelation(ImageSimilarity):
    """Local normalized cross-correlation (LNCC): the weighted mean over windows of the correlation (paper section 3.8).

    fixed, moving: (1, 1, D, H, W), normalized to about [0, 1]. weight: (1, 1, D, H, W) in [0, 1], where voxels count.
    radius: windows have (2 radius + 1)^3 voxels.
    signed: True takes the coefficient itself, so that brighter must meet brighter. False takes its square, as the
        paper's loss does; windows may then also agree with reversed contrast.
    noise: variance added in each window, so that flat tissue is not matched by its noise.
    stride: windows are centered at every `stride` voxels and are 2 (radius // stride) + 1 strides wide. The derivative
        is exact. A stride of 2 takes a third of the time and aligns two subjects equally well.
    scanned: (1, 1, D, H, W) of 0 and 1, the voxels that both volumes show, or None for all. Windows at the edge of a
        scan are then computed from the voxels in it, and count by their fraction.
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
        self._scanned: torch.Tensor | None = None
        coverage = None
        if scanned is not None:
            coverage = self._means((scanned, None))
            self._scanned, self._coverage = scanned, coverage.clamp(min=_MIN_COVERAGE)
        moments = self._means((fixed, None), (fixed, fixed))
        self._mean = moments[:, :1].clone()
        self._variance = (moments[:, 1:] - self._mean**2).clamp_(min=0).add_(noise)
        weight = weight if stride == 1 else F.avg_pool3d(weight, stride)
        if coverage is not None:
            weight = weight * coverage
        self._weight = weight / weight.sum().clamp(min=1e-6)

    def value(self, displacement: torch.Tensor | None = None) -> float:
        """The value alone, without the cost of its derivative."""
        return float(self._correlate(self._warped(displacement))[0])

    def compare(self, warped: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `ImageSimilarity.compare`; warped: (1, 1, D, H, W)."""
        value, by_covariance, covariance, variance, mean = self._correlate(warped)
        if not self._signed:
            by_covariance.mul_(2)
        by_variance = covariance.mul_(by_covariance).div_(variance)
        constant = mean.mul_(by_variance).addcmul_(by_covariance, self._mean, value=-1)
        # d value / d warped(x) is a sum over the windows that contain x, of their covariances and variances
        a, b, c = (self._sum_over_windows(term) for term in (by_covariance, by_variance, constant))
        derivative = a.mul_(self._fixed).addcmul_(b, warped, value=-1).add_(c)
        return value, derivative if self._scanned is None else derivative.mul_(self._scanned)

    def _correlate(self, warped: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(value, derivative by the covariance of each window, covariance, variance, mean).

        The derivative is half of the true one where the coefficient is squared. All but the value may be overwritten.
        """
        mean, square, product = self._means((warped, None), (warped, warped), (self._fixed, warped)).split(1, 1)
        variance = square.addcmul_(mean, mean, value=-1).clamp_(min=0).add_(self._noise)
        covariance = product.addcmul_(self._mean, mean, value=-1)
        by_covariance = self._variance * variance
        if self._signed:
            by_covariance.rsqrt_().mul_(self._weight)
        else:
            torch.div(covariance, by_covariance, out=by_covariance).mul_(self._weight)
        return (by_covariance * covariance).sum(), by_covariance, covariance, variance, mean

    def _means(self, *factors: tuple[torch.Tensor, torch.Tensor | None]) -> torch.Tensor:
        """(1, len(factors), ...): the mean of each product of factors over the scanned voxels of the windows."""
        size = [n // self._stride for n in factors[0][0].shape[2:]]
        means = factors[0][0].new_empty(1, len(factors), *size)
        for mean, (one, other) in zip(means.split(1, 1), factors):
            product = one if other is None else one * other
            if self._scanned is not None:
                product = product * self._scanned
            mean.copy_(product if self._stride == 1 else F.avg_pool3d(product, self._stride))
        windows = box_mean(means, self._radius, out=means)
        return windows if self._scanned is None else windows.div_(self._coverage)

    def _sum_over_windows(self, term: torch.Tensor) -> torch.Tensor:
        """At each voxel the sum of `term` over the windows that contain it; `term` is overwritten."""
        if self._scanned is not None:
            term.div_(self._coverage)
        return self._at_voxels(box_mean(term, self._radius, out=term))

    def _at_voxels(self, term: torch.Tensor) -> torch.Tensor:
        """The adjoint of the mean over strides; voxels beyond the last whole stride of a side are in no window."""
        if self._stride == 1:
            return term
        spread = F.interpolate(term / self._stride**3, scale_factor=self._stride, mode="nearest")
        rest = [n - covered for n, covered in zip(self._fixed.shape[2:], spread.shape[2:])]
        return F.pad(spread, [side for n in reversed(rest) for side in (0, n)]) if any(rest) else spread
