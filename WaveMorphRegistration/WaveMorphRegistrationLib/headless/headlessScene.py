"""A MRML scene with the logics for reading, saving and drawing, without the Slicer application."""

from __future__ import annotations

import colorsys
import contextlib
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import SimpleITK as sitk
import slicer
import vtk
from wavemorph.errors import InputError, OutputError
from wavemorph.io.files import short_reason
from wavemorph.system.private_folders import private_folder

from ..scene.transforms import interpolateLinearly
from ..scene.volumes import updateVolumeNodeFromImage

_LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
}


class HeadlessScene:
    """A scene with a temporary folder. `close` removes both."""

    def __init__(self):
        self._folder = contextlib.ExitStack()
        home = self._folder.enter_context(private_folder())
        self.scene = slicer.vtkMRMLScene()
        slicer.mrmlScene = self.scene
        self._addSingletons()
        self.applicationLogic = slicer.vtkSlicerApplicationLogic()
        self.applicationLogic.SetMRMLScene(self.scene)
        self.applicationLogic.SetSliceLogics(vtk.vtkCollection())
        self.applicationLogic.SetViewLogics(vtk.vtkCollection())
        self.applicationLogic.SetTemporaryPath(str(home))
        self.applicationLogic.SetHomeDirectory(str(home))
        self.applicationLogic.SetShareDirectory(_writeShare(home))
        self.scene.SetRootDirectory(str(home))
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)
        self.logics = {name: self._addLogic(name, className) for name, className in _LOGICS.items()}
        self._addDataInput(home)

    def loadVolume(self, path: str | os.PathLike, name: str = "", label: bool = False):
        """Read a volume with Slicer's readers, and return its node. Raises InputError.

        name: of the node; by default that of the file. label: read as a label map.
        """
        name = name or _nameWithoutExtension(path)
        node = self.logics["Volumes"].AddArchetypeVolume(str(path), name, int(label))
        if node is None:
            raise InputError(f'"{path}" cannot be read as a volume by Slicer; save it as .nrrd or .nii.gz.')
        return node

    def addVolume(self, image: sitk.Image, path: str | os.PathLike):
        """A volume node with a copy of an image (LPS mm), named after the file or folder that it was read from."""
        node = self.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", _nameWithoutExtension(path))
        updateVolumeNodeFromImage(image, node)
        node.CreateDefaultDisplayNodes()
        return node

    def loadTransform(self, path: str | os.PathLike):
        """Read a transform with Slicer's readers, set it to linear interpolation as in ITK, and return its node.

        Raises InputError.
        """
        node = self.logics["Transforms"].AddTransform(str(path), self.scene)
        if node is None:
            raise InputError(f'"{path}" cannot be read as a transform by Slicer.')
        interpolateLinearly(node)
        return node

    def saveBundle(self, path: str | os.PathLike, name: str = "") -> None:
        """Write the scene as .mrb, with compressed transforms, which Slicer leaves as they are. Raises OutputError.

        name: of the folder in the archive; by default that of the file.
        """
        with tempfile.TemporaryDirectory(dir=Path(path).parent, prefix=".mrb-") as folder:
            bundle = Path(folder) / f"{name or Path(path).stem}.mrb"
            if not self.scene.WriteToMRB(str(bundle)) or not bundle.is_file():
                raise OutputError(f'The scene "{path}" could not be written; check the free space of the disk.')
            try:
                _compressTransforms(bundle, path)
            except OSError as error:
                raise OutputError(f'The scene "{path}" could not be written: {short_reason(error)}.') from error

    def loadBundle(self, path: str | os.PathLike) -> None:
        """Replace the scene by that of a .mrb file. Raises InputError."""
        workingFolder = os.getcwd()
        try:
            if not self.scene.ReadFromMRB(str(Path(path).absolute())):
                raise InputError(f'"{path}" cannot be read as a Slicer scene.')
        finally:
            os.chdir(workingFolder)  # a failed reading leaves the process in a folder that is then removed

    def close(self) -> None:
        """Clear the scene and remove its folder."""
        self.scene.Clear(1)
        self._folder.close()

    def _addSingletons(self) -> None:
        for className in ("vtkMRMLCrosshairNode", "vtkMRMLSelectionNode", "vtkMRMLInteractionNode"):
            node = getattr(slicer, className)()
            if className == "vtkMRMLCrosshairNode":
                node.SetCrosshairName("default")
            self.scene.AddNode(node)

    def _addLogic(self, name: str, className: str):
        logic = getattr(slicer, className)()
        logic.SetMRMLApplicationLogic(self.applicationLogic)
        logic.SetMRMLScene(self.scene)
        self.applicationLogic.SetModuleLogic(name, logic)
        return logic

    def _addDataInput(self, home: Path) -> None:
        """Reading a .mrb file needs a cache folder, although nothing is downloaded."""
        cache = home / "cache"
        cache.mkdir()
        remote = slicer.vtkMRMLRemoteIOLogic()
        remote.SetMRMLScene(self.scene)
        remote.SetMRMLApplicationLogic(self.applicationLogic)
        remote.GetCacheManager().SetRemoteCacheDirectory(str(cache))
        data = slicer.vtkDataIOManagerLogic()
        data.SetMRMLScene(self.scene)
        data.SetMRMLApplicationLogic(self.applicationLogic)
        data.SetAndObserveDataIOManager(remote.GetDataIOManager())
        remote.AddDataIOToScene()
        self._dataInput = (remote, data)


def _compressTransforms(bundle: Path, path: str | os.PathLike) -> None:
    """Copy an archive, and compress its transform files; the others are compressed in themselves."""
    with zipfile.ZipFile(bundle) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            copied = zipfile.ZipInfo(entry.filename, entry.date_time)
            copied.external_attr = entry.external_attr
            if entry.filename.endswith(".h5"):
                copied.compress_type = zipfile.ZIP_DEFLATED
            if entry.is_dir():
                target.writestr(copied, b"")
                continue
            with source.open(entry) as content, target.open(copied, "w", force_zip64=True) as copy:
                shutil.copyfileobj(content, copy, 1 << 20)


def _writeShare(home: Path) -> str:
    """Write the color file that label maps need: the slicer-core package has none. Returns the folder's name."""
    folder = home / "share" / "ColorFiles"
    folder.mkdir(parents=True)
    lines = ["0 background 0 0 0 0"]
    for label in range(1, 65):
        red, green, blue = (int(255 * value) for value in colorsys.hsv_to_rgb(label * 0.618 % 1, 0.6, 0.9))
        lines.append(f"{label} {label} {red} {green} {blue} 255")
    (folder / "GenericColors.txt").write_text("\n".join(lines) + "\n", encoding="ascii")
    return "share"


def _nameWithoutExtension(path: str | os.PathLike) -> str:
    name = Path(path).absolute().name
    if Path(path).is_dir():
        return name
    for extension in (".nii.gz", *Path(path).suffixes[-1:]):
        if name.lower().endswith(extension.lower()):
            return name[: -len(extension)]
    return name
