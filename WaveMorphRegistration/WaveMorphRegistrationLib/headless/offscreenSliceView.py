"""A slice view that is drawn into memory, by the same displayable managers as in Slicer."""

from __future__ import annotations

import os
import sys

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

if sys.platform.startswith("linux"):  # read by VTK when it creates the first window; needs no display
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLLinearTransformsDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)


class OffscreenSliceView:
    """A slice node with its logic and window.

    orientation: "Axial", "Coronal" or "Sagittal". size: (width, height) in pixels.
    """

    def __init__(self, scene, applicationLogic, name: str, orientation: str, size: tuple[int, int]):
        self._renderer = vtk.vtkRenderer()
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(4)
        self._window.SetSize(*size)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()  # some displayable managers need it
        self._interactor.SetRenderWindow(self._window)
        self._group = _managers(applicationLogic, self._renderer)
        self._addImageLayer()

        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(applicationLogic)
        applicationLogic.GetSliceLogics().AddItem(self._logic)
        self._logic.SetMRMLScene(scene)
        self.node = self._logic.AddSliceNode(name)
        self.composite = self._logic.GetSliceCompositeNode()
        self.node.SetOrientation(orientation)
        self._logic.ResizeSliceNode(*size)
        self._group.SetMRMLDisplayableNode(self.node)

    def lookAt(self, volumeNode, pointRas) -> None:
        """Show the volume alone, fitted to the view, in the slice through a point (RAS mm) at the center."""
        self.composite.SetBackgroundVolumeID(volumeNode.GetID())
        self.composite.SetForegroundVolumeID(None)
        self._logic.FitSliceToBackground()
        self.node.JumpSliceByCentering(*pointRas)

    def image(self) -> np.ndarray:
        """The drawn view: (height, width, 3) uint8, first row at the top."""
        connection = self._logic.GetImageDataConnection()
        self._mapper.SetInputConnection(connection)
        self._actor.SetVisibility(connection is not None)
        self._window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self._window)
        grabber.SetInputBufferTypeToRGB()
        grabber.ReadFrontBufferOff()
        grabber.Update()
        output = grabber.GetOutput()
        width, height, _depth = output.GetDimensions()
        return numpy_support.vtk_to_numpy(output.GetPointData().GetScalars()).reshape(height, width, 3)[::-1].copy()

    def close(self) -> None:
        """Release the window."""
        self._group.SetMRMLDisplayableNode(None)
        self._window.Finalize()

    def _addImageLayer(self) -> None:
        """Show the image into which the slice logic blends all layers, behind everything else."""
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self._actor.VisibilityOff()
        self._renderer.AddViewProp(self._actor)


def _managers(applicationLogic, renderer):
    factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
    factory.SetMRMLApplicationLogic(applicationLogic)
    for name in _MANAGERS:
        if not factory.IsDisplayableManagerRegistered(name):
            factory.RegisterDisplayableManager(name)
    group = slicer.vtkMRMLDisplayableManagerGroup()
    group.SetRenderer(renderer)
    group.Initialize(factory, renderer)
    return group
