"""The layers of the slice views."""

from __future__ import annotations

import slicer


class SliceLayers:
    """Sets the volumes of all slice views that follow the application's selection, and that selection itself.

    Whenever something is loaded the application gives the selected volumes to the slice views, so that layers that are
    set in the views alone are lost.
    """

    def __init__(self, scene):
        self._scene = scene

    def show(self, background, foreground=None, opacity: float = 0.5, compositing: int | None = None) -> None:
        """Show volume nodes; None leaves a layer empty. compositing: of vtkMRMLSliceCompositeNode, None for Alpha."""
        selection = self._scene.GetFirstNodeByClass("vtkMRMLSelectionNode")
        backgroundId = background.GetID() if background is not None else None
        foregroundId = foreground.GetID() if foreground is not None else None
        if selection is not None:
            selection.SetActiveVolumeID(backgroundId)
            selection.SetSecondaryVolumeID(foregroundId)
        for composite in self.composites():
            composite.SetBackgroundVolumeID(backgroundId)
            composite.SetForegroundVolumeID(foregroundId)
            composite.SetForegroundOpacity(opacity)
            composite.SetCompositing(slicer.vtkMRMLSliceCompositeNode.Alpha if compositing is None else compositing)

    def setOpacity(self, opacity: float) -> None:
        """Opacity of the foreground."""
        for composite in self.composites():
            composite.SetForegroundOpacity(opacity)

    def isEmpty(self) -> bool:
        """Whether no slice view shows a volume."""
        return not any(self.shownIds())

    def shownIds(self) -> set[str]:
        """The IDs of the volumes in the slice views."""
        composites = self.composites()
        shown = {c.GetBackgroundVolumeID() for c in composites} | {c.GetForegroundVolumeID() for c in composites}
        return {nodeId for nodeId in shown if nodeId}

    def composites(self) -> list:
        """The composite nodes of the slice views that follow the selection."""
        count = self._scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")
        nodes = [self._scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode") for index in range(count)]
        return [node for node in nodes if node.GetDoPropagateVolumeSelection()]
