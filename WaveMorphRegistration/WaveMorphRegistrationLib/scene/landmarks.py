"""Markups nodes -> points of the engine."""

from __future__ import annotations

import numpy as np


def landmarksFromNode(markupsNode) -> np.ndarray:
    """The control points of a markups node, (N, 3) LPS mm of the world, parent transforms included."""
    points = []
    for index in range(markupsNode.GetNumberOfControlPoints()):
        position = [0.0, 0.0, 0.0]
        markupsNode.GetNthControlPointPositionWorld(index, position)
        points.append((-position[0], -position[1], position[2]))
    return np.array(points, float).reshape(-1, 3)
