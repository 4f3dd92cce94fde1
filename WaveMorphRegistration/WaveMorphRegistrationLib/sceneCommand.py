"""What `wavemorph scene` does: a registration as nodes of a real scene, saved as a bundle and drawn as a picture."""

from __future__ import annotations

import os

import SimpleITK as sitk
from wavemorph.result import Registration

from .headless.headlessScene import HeadlessScene
from .headless.resultPicture import ResultPicture
from .results.display import showResult
from .results.resultNodes import ALL_OUTPUTS, addRegistrationToScene
from .scene.volumes import imageFromVolumeNode


class SceneCommand:
    """Load two volumes, show their registration, write it."""

    def __init__(self):
        self._scene = HeadlessScene()
        self._fixedNode = self._movingNode = self._picture = None

    def load(self, fixedPath: str | os.PathLike, movingPath: str | os.PathLike) -> tuple[sitk.Image, sitk.Image]:
        """The fixed and the moving volume as the scene sees them. Raises InputError."""
        self._fixedNode = self._scene.loadVolume(fixedPath)
        self._movingNode = self._scene.loadVolume(movingPath)
        return (
            imageFromVolumeNode(self._fixedNode, "fixed volume"),
            imageFromVolumeNode(self._movingNode, "moving volume"),
        )

    def show(self, registration: Registration, withInverse: bool = False) -> None:
        """Nodes, views and display for a registration of the two volumes."""
        outputs = [output for output in ALL_OUTPUTS if withInverse or output != "inverse"]
        nodes = addRegistrationToScene(registration, self._fixedNode, self._movingNode, outputs)
        self._picture = ResultPicture(self._scene, nodes, self._fixedNode, self._movingNode)
        showResult(nodes, self._fixedNode)

    def writeBundle(self, path: str, name: str) -> None:
        self._scene.saveBundle(path, name)

    def writePicture(self, path: str) -> None:
        self._picture.write(path)

    def close(self) -> None:
        if self._picture is not None:
            self._picture.close()
        self._scene.close()
