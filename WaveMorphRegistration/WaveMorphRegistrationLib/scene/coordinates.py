"""World coordinates: RAS mm in MRML, LPS mm in the engine, and the matrices between them and voxel indices."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import vtk
from wavemorph.errors import InputError

from ..translation import _

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
FLIP_XY = np.diag(LPS_TO_RAS)[:3]  # LPS <-> RAS of points and of vectors


def ijkToWorld(volumeNode, name: str = "volume") -> np.ndarray:
    """The 4x4 matrix from voxel indices to RAS mm of the world, a linear parent transform included.

    name: what a message calls the volume.
    Raises InputError where the volume is under a non-linear transform.
    """
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    ijkToRas = arrayFromMatrix(matrix)
    parent = volumeNode.GetParentTransformNode()
    if parent is None:
        return ijkToRas
    toWorld = vtk.vtkMatrix4x4()
    if not parent.IsTransformToWorldLinear():
        raise InputError(
            _("The {name} is under the non-linear transform {parent}; harden the transform or remove it.").format(
                name=name, parent=parent.GetName()
            )
        )
    parent.GetMatrixTransformToWorld(toWorld)
    return arrayFromMatrix(toWorld) @ ijkToRas


def ijkToRasOfImage(image: sitk.Image) -> np.ndarray:
    """The 4x4 matrix from voxel indices to RAS mm of an image whose geometry is in LPS mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ matrix


def setGeometry(image: sitk.Image, ijkToRas: np.ndarray, name: str = "volume") -> None:
    """Set origin, spacing and direction of an image (LPS mm) from a 4x4 matrix to RAS mm.

    name: what a message calls the image.
    Raises InputError where the axes are not orthogonal.
    """
    ijkToLps = LPS_TO_RAS @ ijkToRas
    spacing = np.linalg.norm(ijkToLps[:3, :3], axis=0)
    direction = ijkToLps[:3, :3] / np.where(spacing > 0, spacing, 1)
    if np.min(spacing) <= 0 or np.abs(direction.T @ direction - np.eye(3)).max() > 1e-4:
        raise InputError(
            _("The axes of the {name} are sheared or scaled unevenly; harden its transform or resample it.").format(
                name=name
            )
        )
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(ijkToLps[:3, 3].tolist())


def arrayFromMatrix(matrix) -> np.ndarray:
    """A vtkMatrix4x4 as a 4x4 array."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def vtkMatrix(array: np.ndarray):
    """A 4x4 array as a vtkMatrix4x4."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, float).ravel().tolist())
    return matrix
