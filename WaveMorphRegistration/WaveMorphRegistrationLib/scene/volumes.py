"""Volume nodes <-> images of the engine."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import vtk
from vtk.util import numpy_support
from wavemorph.errors import InputError

from ..translation import _
from .coordinates import ijkToRasOfImage, ijkToWorld, setGeometry, vtkMatrix


class VolumeLattice(NamedTuple):
    """Size and spacing (mm) along (i, j, k), with the methods of an image that tell them."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]

    def GetSize(self) -> tuple[int, ...]:
        """Voxels."""
        return self.size

    def GetSpacing(self) -> tuple[float, ...]:
        """In mm."""
        return self.spacing


def latticeOfVolumeNode(volumeNode, name: str = "volume") -> VolumeLattice:
    """Size and spacing of `imageFromVolumeNode`, without a copy of the voxels. Raises InputError as it does."""
    imageData = volumeNode.GetImageData()
    if imageData is None or imageData.GetNumberOfPoints() == 0:
        raise InputError(_("The {name} has no voxels; choose another one.").format(name=name))
    spacing = np.linalg.norm(ijkToWorld(volumeNode, name)[:3, :3], axis=0)
    return VolumeLattice(imageData.GetDimensions(), tuple(spacing.tolist()))


def imageFromVolumeNode(volumeNode, name: str = "volume") -> sitk.Image:
    """A copy of the voxels of a volume node as an image in LPS mm, a linear parent transform included.

    name: what a message calls the volume.
    Raises InputError where there are no voxels, more than one component per voxel, or an unsuitable parent transform.
    """
    imageData = volumeNode.GetImageData() if volumeNode is not None else None
    if imageData is None or imageData.GetNumberOfPoints() == 0:
        raise InputError(_("The {name} has no voxels; choose another one.").format(name=name))
    components = imageData.GetNumberOfScalarComponents()
    if components != 1:
        raise InputError(
            _("The {name} has {components} values per voxel (color or vector); choose a scalar volume.").format(
                name=name, components=components
            )
        )
    size = imageData.GetDimensions()
    scalars = numpy_support.vtk_to_numpy(imageData.GetPointData().GetScalars())
    image = sitk.GetImageFromArray(scalars.reshape(size[::-1]))
    setGeometry(image, ijkToWorld(volumeNode, name), name)
    return image


def updateVolumeNodeFromImage(image: sitk.Image, volumeNode) -> None:
    """Replace voxels and geometry of the node by a copy of those of the image (LPS mm)."""
    array = sitk.GetArrayViewFromImage(image)
    imageData = vtk.vtkImageData()
    imageData.SetDimensions(image.GetSize())
    imageData.AllocateScalars(numpy_support.get_vtk_array_type(array.dtype), 1)
    numpy_support.vtk_to_numpy(imageData.GetPointData().GetScalars())[:] = array.ravel()
    volumeNode.SetIJKToRASMatrix(vtkMatrix(ijkToRasOfImage(image)))
    volumeNode.SetAndObserveImageData(imageData)
