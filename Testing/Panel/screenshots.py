"""Draws panel.png, views.png and expected-error.png in Resources/Screenshots: the demo's pair registered in the panel.

    .venv/bin/python Testing/Panel/screenshots.py [FOLDER]

The panel is drawn by Qt with stand-ins for Slicer's widgets; the views by Slicer's own displayable managers.
FOLDER gets the panel before and after the registration, 420 and 560 pixels wide and 700 pixels high, a small screen.
"""

from __future__ import annotations

import sys
import tempfile
import time
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "WaveMorphRegistration"), str(ROOT / "Testing/Support"), str(Path(__file__).parent)]

import pythonQt
import slicer
import slicer.util
import slicerModules
import vtk
from PIL import Image
from sceneVolumes import addVolume
from vtk.util import numpy_support
from wavemorph.cli.demo import built_in_pair
from WaveMorphRegistrationLib.headless.headlessScene import HeadlessScene
from WaveMorphRegistrationLib.headless.offscreenSliceView import OffscreenSliceView

TILE = (460, 400)
POINT = (0.0, -15.0, 10.0)  # RAS mm, in the slices that are shown
MANAGERS_3D = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLThreeDReformatDisplayableManager",
    "vtkMRMLTransformsDisplayableManager3D",
    "vtkMRMLLinearTransformsDisplayableManager",
)


class View3D:
    def __init__(self, headless):
        self.renderer, self.window = vtk.vtkRenderer(), vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(4)
        self.window.SetSize(*TILE)
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(headless.applicationLogic)
        for name in MANAGERS_3D:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.SetRenderer(self.renderer)
        self.group.Initialize(factory, self.renderer)
        self.logic = slicer.vtkMRMLViewLogic()
        self.logic.SetMRMLApplicationLogic(headless.applicationLogic)
        headless.applicationLogic.GetViewLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(headless.scene)
        self.node = self.logic.AddViewNode("1")
        self.group.SetMRMLDisplayableNode(self.node)

    def image(self):
        self.window.Render()
        self.renderer.ResetCamera()
        camera = self.renderer.GetActiveCamera()
        camera.Azimuth(35)
        camera.Elevation(20)
        camera.Zoom(1.3)
        self.renderer.ResetCameraClippingRange()
        self.window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self.window)
        grabber.SetInputBufferTypeToRGB()
        grabber.ReadFrontBufferOff()
        grabber.Update()
        width, height, _ = grabber.GetOutput().GetDimensions()
        scalars = numpy_support.vtk_to_numpy(grabber.GetOutput().GetPointData().GetScalars())
        return scalars.reshape(height, width, 3)[::-1].copy()


def panelPictures(parent, application, name: str, folder: Path | None) -> Image.Image:
    """The panel 420 pixels wide; with a folder both widths are saved there."""
    pictures = {}
    for width in (560, 420):
        parent.resize(width, 700)
        parent.show()
        for _ in range(20):
            application.processEvents()
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(folder or temporary) / f"panel-{name}-{width}.png"
            parent.grab().save(str(path))
            pictures[width] = Image.open(path).convert("RGB")
    return pictures[420]


def sideBySide(tiles, columns: int) -> Image.Image:
    width, height = TILE[0] + 6, TILE[1] + 6
    picture = Image.new("RGB", (columns * width - 6, -(-len(tiles) // columns) * height - 6))
    for index, tile in enumerate(tiles):
        picture.paste(Image.fromarray(tile), (index % columns * width, index // columns * height))
    return picture


def main() -> None:
    application = pythonQt.install()
    slicerModules.install(application)
    headless = HeadlessScene()
    slicer.modules.colors = types.SimpleNamespace(logic=lambda: headless.logics["Colors"])
    slicer.util.errorDisplay = lambda text, *_: print("dialog:", text)
    views = [
        OffscreenSliceView(headless.scene, headless.applicationLogic, name, plane, TILE)
        for name, plane in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal"))
    ]
    space = View3D(headless)
    import WaveMorphRegistration

    widget = WaveMorphRegistration.WaveMorphRegistrationWidget()
    widget.setup()
    widget.enter()
    ui, job = widget.ui, widget.panel.logic.job
    pair = built_in_pair()
    fixed, moving = (
        addVolume(headless, image, name)
        for image, name in ((pair.fixed, "MNI template"), (pair.moving, "Deformed head"))
    )
    ui.fixedSelector.setCurrentNode(fixed)
    ui.movingSelector.setCurrentNode(moving)
    application.processEvents()
    parent, folder = widget.parent, Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    ui.wantExpectedErrorCheckBox.checked = True
    application.processEvents()
    panels = [panelPictures(parent, application, "before", folder)]
    ui.registerButton.click()
    while job.active:
        application.processEvents()
        time.sleep(0.02)
    panels.append(panelPictures(parent, application, "after", folder))
    both = Image.new("RGB", (2 * 420 + 12, 700), "white")
    for index, panel in enumerate(panels):
        both.paste(panel, (index * 432, 0))
    folder = ROOT / "Resources" / "Screenshots"
    both.save(folder / "panel.png", optimize=True)
    for view in views:
        view.lookAt(fixed, POINT)
    ui.viewExpectedErrorButton.click()
    legend = headless.logics["Colors"].GetColorLegendDisplayNode(widget.panel.logic.outcome.nodes.expectedError)
    legend.Modified()  # outside Slicer it is not notified when its volume is shown
    sideBySide([view.image() for view in views], columns=3).save(folder / "expected-error.png", optimize=True)
    ui.viewAfterButton.click()
    ui.gridCheckBox.checked = ui.grid3DCheckBox.checked = True
    ui.gridSpacingSlider.value = 12.0
    outcome = widget.panel.logic.outcome
    for view in views:
        view.lookAt(fixed, POINT)
        view.composite.SetForegroundVolumeID(outcome.nodes.warped.GetID())
        view.composite.SetForegroundOpacity(0.5)
        view.node.SetSliceVisible(True)
    tiles = [views[0].image(), space.image(), views[1].image(), views[2].image()]
    sideBySide(tiles, columns=2).save(folder / "views.png", optimize=True)
    widget.cleanup()
    headless.close()


if __name__ == "__main__":
    main()
