"""Markups nodes -> landmarks of the engine."""

from __future__ import annotations

import numpy as np
import slicer
from wavemorph.io.points import PointList, point_list

from .coordinates import FLIP_XY


def landmarksFromNode(markupsNode) -> PointList:
    """The control points of a markups node with their labels, LPS mm of the world, parent transforms included.

    Control points whose position is undefined, missing or a preview are without a position in the list.
    """
    entries = []
    for index in range(markupsNode.GetNumberOfControlPoints()):
        position = [0.0, 0.0, 0.0]
        markupsNode.GetNthControlPointPositionWorld(index, position)
        isSet = markupsNode.GetNthControlPointPositionStatus(index) == slicer.vtkMRMLMarkupsNode.PositionDefined
        label = markupsNode.GetNthControlPointLabel(index) or ""
        entries.append((label, np.array(position) * FLIP_XY if isSet else None))
    return point_list(entries)
