"""The command `wavemorph scene`: a registration as nodes of a scene, saved as .mrb and drawn as a picture."""

from __future__ import annotations

import os

import SimpleITK as sitk
from wavemorph.io.result import Registration

from ..results.reportTable import addReportTable
from ..results.resultNodes import addRegistrationToScene
from ..results.resultView import ResultView, ViewMode
from ..results.sceneResult import ALL_OUTPUTS
from ..scene.volumes import imageFromVolumeNode
from .headlessScene import HeadlessScene
from .resultPicture import ResultPicture


class SceneCommand:
    """Load two volumes, show their registration, and write it."""

    def __init__(self):
        self._scene = HeadlessScene()
        self._fixedNode = self._movingNode = self._picture = None

    def load(self, fixedPath: str | os.PathLike, movingPath: str | os.PathLike) -> tuple[sitk.Image, sitk.Image]:
        """Read both volumes into the scene, and return them as images in LPS mm. Raises InputError."""
        self._fixedNode = self._scene.loadVolume(fixedPath)
        self._movingNode = self._scene.loadVolume(movingPath)
        return (
            imageFromVolumeNode(self._fixedNode, "fixed volume"),
            imageFromVolumeNode(self._movingNode, "moving volume"),
        )

    def show(self, registration: Registration, withInverse: bool = False) -> None:
        """Create the nodes and views of the registration of both volumes."""
        omitted = set() if withInverse else {"inverse"}
        if registration.is_linear:
            omitted.add("jacobian")  # the same everywhere
        outputs = [output for output in ALL_OUTPUTS if output not in omitted]
        nodes = addRegistrationToScene(registration, self._fixedNode, self._movingNode, outputs)
        self._picture = ResultPicture(self._scene, nodes, self._fixedNode, self._movingNode)
        ResultView(nodes).show(ViewMode.After)
        addReportTable(nodes)

    def writeBundle(self, path: str, name: str) -> None:
        """Write the scene as .mrb whose folder is called `name`. Raises OutputError."""
        self._scene.saveBundle(path, name)

    def writePicture(self, path: str) -> None:
        """Draw the result and save it as .png."""
        self._picture.write(path)

    def close(self) -> None:
        """Release views and scene."""
        if self._picture is not None:
            self._picture.close()
        self._scene.close()
