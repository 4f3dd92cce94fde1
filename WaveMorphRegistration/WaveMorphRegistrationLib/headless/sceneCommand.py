"""The command `wavemorph scene`: a registration as nodes of a scene, saved as .mrb and drawn as a picture."""

from __future__ import annotations

import os

import SimpleITK as sitk
from wavemorph.io.result import Registration

from ..results.reportTable import addReportTable
from ..results.resultNodes import addRegistrationToScene
from ..results.resultView import ResultView, ViewMode
from ..results.sceneResult import ALL_OUTPUTS
from .headlessScene import HeadlessScene
from .resultPicture import ResultPicture


class SceneCommand:
    """Two volumes in a scene, their registration shown, and both written."""

    def __init__(self):
        self._scene = HeadlessScene()
        self._fixedNode = self._movingNode = self._picture = None

    def add(self, fixed: sitk.Image, moving: sitk.Image, paths: tuple[str | os.PathLike, str | os.PathLike]) -> None:
        """Put both images (LPS mm) into the scene as volumes with the names of their files or folders."""
        self._fixedNode = self._scene.addVolume(fixed, paths[0])
        self._movingNode = self._scene.addVolume(moving, paths[1])

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
