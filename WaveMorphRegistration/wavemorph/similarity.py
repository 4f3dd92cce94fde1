"""Similarities of the fixed and the warped moving image, each with its exact gradient (paper section 3.8, and ours).

A similarity is made for one fixed image; calling it with the warped features gives its value (larger is better) and the
derivative of that value with respect to each warped voxel. Writing the derivative out keeps the refinement free of an
autograd graph: a third of the time and memory on a CPU. `LocalCorrelation` is the paper's loss; the others are ours.

Images are (1, 1, D, H, W), normalised to about [0, 1]; `weight` (same shape, 0 to 1) says where voxels count.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .field import by_displacement, resize, separable, smooth, warp


def box_mean(image: torch.Tensor, radius: int) -> torch.Tensor:
    """Mean over (2 radius + 1)^3 windows of (B, C, D, H, W), zeros outside. Window sums grow by doubling."""
    width = 2 * radius + 1

    def along(part: torch.Tensor, axis: int) -> torch.Tensor:
        n = part.shape[axis]
        padding = [0] * 6
        padding[2 * (4 - axis)] = padding[2 * (4 - axis) + 1] = radius
        power, length, at, total = F.pad(part, padding), 1, 0, None
        while at < width:  # add the sums of 1, 2, 4, ... values that make up the binary digits of the width
            if width & length:
                term = power.narrow(axis, at, n)
                total = term.clone() if total is None else total.add_(term)
                at += length
            if at < width:
                m = power.shape[axis] - length
                power = power.narrow(axis, 0, m) + power.narrow(axis, length, m)
            length *= 2
        return total

    return separable(image, along).div_(width**3)


class LocalCorrelation:
    """Correlation of the two images in a window around each voxel, averaged over the voxels (LNCC).

    signed=True takes the coefficient itself: brighter must meet brighter, and windows that disagree still pull.
    signed=False takes its square, as in the paper's loss: windows may also agree with contrast reversed.
    noise: variance added in each window, so that flat tissue is not matched by its noise.
    stride: windows stand at every so many voxels, and are then 2 (radius // stride) + 1 strides wide. The derivative is
        the exact one of that mean; with 2 it costs a third, and aligns two people as well.
    """

    def __init__(
        self,
        fixed: torch.Tensor,
        weight: torch.Tensor,
        radius: int = 3,
        signed: bool = True,
        noise: float = 1e-5,
        stride: int = 1,
    ):
        self._fixed, self._radius, self._signed, self._noise = fixed, radius // stride, signed, noise
        self._stride = stride = min(stride, *fixed.shape[2:])
        moments = self._means((fixed, None), (fixed, fixed))
        self._mean = moments[:, :1].clone()
        self._variance = (moments[:, 1:] - self._mean**2).clamp_(min=0).add_(noise)
        weight = weight if stride == 1 else F.avg_pool3d(weight, stride)
        self._weight = weight / weight.sum()

    features = staticmethod(lambda image: image)

    def value(self, warped: torch.Tensor) -> float:
        """The similarity alone, without its derivative."""
        return self._compare(warped)[0]

    def __call__(self, warped: torch.Tensor) -> tuple[float, torch.Tensor]:
        value, by_covariance, covariance, variance, mean = self._compare(warped)
        if not self._signed:
            by_covariance *= 2
        by_variance = (by_covariance * covariance).div_(variance)
        constant = (by_variance * mean).addcmul_(by_covariance, self._mean, value=-1)
        # d value / d warped(x) collects what the windows around x say about their covariance and their variance
        terms = box_mean(torch.cat([by_covariance, by_variance, constant], 1), self._radius)
        a, b, c = (self._at_voxels(term) for term in terms.split(1, 1))
        return value, a.mul_(self._fixed).addcmul_(b, warped, value=-1).add_(c)

    def _compare(self, warped: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The value; half its derivative by the covariance of each window, or the whole where signed; the moments."""
        moments = self._means((warped, None), (warped, warped), (self._fixed, warped))
        mean, square, product = moments.split(1, 1)
        variance = (square - mean * mean).clamp_(min=0).add_(self._noise)
        covariance = product - self._mean * mean
        if self._signed:
            by_covariance = (self._variance * variance).rsqrt_().mul_(self._weight)
        else:
            by_covariance = (covariance / (self._variance * variance)).mul_(self._weight)
        return float((by_covariance * covariance).sum()), by_covariance, covariance, variance, mean

    def _means(self, *factors: tuple[torch.Tensor, torch.Tensor | None]) -> torch.Tensor:
        """(1, len(factors), ...): the mean of each product over the windows, zeros outside."""
        means = []
        for one, other in factors:
            product = one if other is None else one * other
            means.append(product if self._stride == 1 else F.avg_pool3d(product, self._stride))
        return box_mean(torch.cat(means, 1), self._radius)

    def _at_voxels(self, term: torch.Tensor) -> torch.Tensor:
        """The adjoint of taking means over strides; no window holds what is left of a side beyond its last stride."""
        if self._stride == 1:
            return term
        spread = F.interpolate(term / self._stride**3, scale_factor=self._stride, mode="nearest")
        left = [n - there for n, there in zip(self._fixed.shape[2:], spread.shape[2:])]
        return F.pad(spread, [side for n in reversed(left) for side in (0, n)]) if any(left) else spread


class SquaredDifference:
    """Minus half the mean squared difference of the features; the gradient is the plain difference."""

    features = staticmethod(lambda image: image)

    def __init__(self, fixed: torch.Tensor, weight: torch.Tensor):
        self._fixed = fixed
        self._weight = weight / (weight.sum() * fixed.shape[1])

    def __call__(self, warped: torch.Tensor) -> tuple[float, torch.Tensor]:
        difference = self._fixed - warped
        gradient = difference * self._weight
        return -0.5 * float((gradient * difference).sum()), gradient


class TissueDifference:
    """Minus half the squared difference of each tissue that a network sees in both volumes, summed over the tissues.

    fixed, moving: (1, C, ...), on a lattice over the same box as `weight` (1, 1, D, H, W). The work is done on the
    coarser of the two lattices: the network tells tissues apart no finer. share: what each tissue counts for.
    """

    def __init__(self, fixed: torch.Tensor, moving: torch.Tensor, weight: torch.Tensor, share: float):
        self._lattice = tuple(weight.shape[2:])
        size = tuple(min(own, other) for own, other in zip(fixed.shape[2:], self._lattice))
        self._fixed, self._moving, weight = (F.interpolate(t, size=size, mode="area") for t in (fixed, moving, weight))
        self._weight = weight * (share / weight.sum())

    def force(self, displacement: torch.Tensor) -> tuple[float, torch.Tensor]:
        """(the value, its slope by the displacement), both fields (1, 3, D, H, W) on the lattice of the weight."""
        size = tuple(self._fixed.shape[2:])
        warped = warp(self._moving, resize(displacement, size))
        difference = self._fixed - warped
        slope = difference * self._weight
        value = -0.5 * float((slope * difference).sum())
        force = by_displacement(warped, slope)
        if size == self._lattice:
            return value, force
        # a voxel here stands for several there, and is several of theirs long
        ratio = [there / here for there, here in zip(self._lattice, size)]
        force *= force.new_tensor([1 / (math.prod(ratio) * own) for own in ratio]).view(1, 3, 1, 1, 1)
        return value, F.interpolate(force, size=self._lattice, mode="trilinear", align_corners=False)


class MindSsc(SquaredDifference):
    """Squared difference of the self-similarity descriptors (MIND-SSC, Heinrich et al., MICCAI 2013): any contrast.

    The descriptor compares twelve pairs of neighbours of a voxel with each other, never the two images.
    """

    _NEIGHBOURS = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
    _PAIRS = tuple(
        (a, b) for a in range(6) for b in range(a) if a // 2 != b // 2
    )  # the pairs at distance sqrt(2), not the opposite ones

    def __init__(self, fixed: torch.Tensor, weight: torch.Tensor):
        super().__init__(self.features(fixed), weight)

    @classmethod
    def features(cls, image: torch.Tensor, radius: int = 1) -> torch.Tensor:
        """(1, 1, D, H, W) -> (1, 12, D, H, W), each in (0, 1]."""
        padded = F.pad(image, (1,) * 6, mode="replicate")
        size = image.shape[2:]
        shifted = []
        for offset in cls._NEIGHBOURS:
            part = padded
            for axis in range(3):
                part = part.narrow(axis + 2, 1 + offset[axis], size[axis])
            shifted.append(part)
        distance = box_mean(torch.cat([(shifted[a] - shifted[b]) ** 2 for a, b in cls._PAIRS], 1), radius)
        distance -= distance.amin(1, keepdim=True)
        variance = distance.mean(1, keepdim=True)
        typical = float(variance.mean())
        variance.clamp_(1e-3 * typical + 1e-12, 1e3 * typical + 1e-12)
        return distance.div_(variance).neg_().exp_()


class MutualInformation:
    """Mutual information of the joint histogram of all voxels, smoothed over the bins (Parzen window)."""

    features = staticmethod(lambda image: image)

    def __init__(self, fixed: torch.Tensor, weight: torch.Tensor, bins: int = 48, brightest: float = 1.2):
        self._bins = bins
        self._scale = (bins - 5) / brightest  # two bins stay free at each end for the Parzen window
        self._weight = (weight / weight.sum()).flatten()
        self._row = self._position(fixed).round().long()

    def _position(self, image: torch.Tensor) -> torch.Tensor:
        return (image.flatten() * self._scale + 2).clamp(2, self._bins - 3)

    def __call__(self, warped: torch.Tensor) -> tuple[float, torch.Tensor]:
        bins, position = self._bins, self._position(warped)
        column = position.floor().long()
        part = position - column
        cell = self._row * bins + column
        histogram = torch.zeros(bins * bins, device=warped.device)
        histogram.index_add_(0, cell, self._weight * (1 - part))
        histogram.index_add_(0, cell + 1, self._weight * part)
        joint = smooth(histogram.view(1, 1, 1, bins, bins), 1.0)[0, 0, 0] + 1e-8
        joint = joint / joint.sum()
        ratio = (joint / (joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True))).log()
        value = float((joint * ratio).sum())
        # a sample that brightens moves its mass along its row: what counts is the slope of log p(f, m) - log p(m)
        slope = (smooth(ratio[None, None, None], 1.0)[0, 0, 0].diff(dim=1)).flatten()
        gradient = slope[self._row * (bins - 1) + column] * self._weight * self._scale
        return value, gradient.view_as(warped)
