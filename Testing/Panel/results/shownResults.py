"""What a view and the panel show of a result: modes, layers, pictures, legends."""

from __future__ import annotations

import numpy as np
from WaveMorphRegistrationLib.results.resultView import ViewMode

MODES = [mode.name for mode in ViewMode]
MAPS = {"Jacobian": "jacobian", "ExpectedError": "expectedError"}  # mode: output


def press(opened, mode: str):
    getattr(opened.ui, f"view{mode}Button").click()
    opened.processEvents()


def layers(view):
    find = view.composite.GetScene().GetNodeByID
    return [
        find(nodeId) if nodeId else None
        for nodeId in (view.composite.GetBackgroundVolumeID(), view.composite.GetForegroundVolumeID())
    ]


def differs(a, b, limit: int = 12) -> int:
    """The number of pixels in which two pictures differ by more than `limit` of 255."""
    return int(np.count_nonzero(np.abs(a.astype(int) - b.astype(int)).max(axis=2) > limit))


def colorfulness(picture) -> float:
    return float(np.ptp(picture.astype(int), axis=2).mean())


def pressed(opened) -> list[str]:
    return [mode for mode in MODES if getattr(opened.ui, f"view{mode}Button").checked]


def legendOf(opened, node):
    return opened.headless.logics["Colors"].GetColorLegendDisplayNode(node)
