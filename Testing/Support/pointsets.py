"""Points in the phantoms, and where a transform maps them."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

SHIFT = np.array([4.0, 0.0, 3.0])  # of `tiny_pair`: moving = fixed + SHIFT, LPS mm


def points_of(image: sitk.Image, count: int = 1000, margin: float = 0.0) -> np.ndarray:
    """Random points in the image, LPS mm; `margin` is a fraction of its sides."""
    size = np.array(image.GetSize())
    low, high = margin * size - 0.5, (1 - margin) * size - 0.5
    indices = np.random.default_rng(5).uniform(low, high, (count, 3))
    return np.array([image.TransformContinuousIndexToPhysicalPoint(index.tolist()) for index in indices])


def moved(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(point.tolist()) for point in points])


def brain_points(count: int = 200) -> np.ndarray:
    """Points inside the phantom's head, which is an ellipsoid of radii 30, 36 and 28 mm."""
    directions = np.random.default_rng(2).standard_normal((count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * np.random.default_rng(3).uniform(2, 25, (count, 1))


def shift_error(result) -> float:
    points = brain_points()
    return float(np.linalg.norm(moved(result.transform, points) - points - SHIFT, axis=1).mean())
