"""World coordinates of MRML (RAS mm) and of the engine (LPS mm), and the matrices between voxels and them."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import vtk
from wavemorph.errors import InputError

from ..translation import _

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
FLIP = np.diag(LPS_TO_RAS)[:3]  # the same for points and vectors


def ijkToWorld(volumeNode, name: str = "volume") -> np.ndarray:
    """The 4x4 matrix from voxels to RAS mm, a linear parent transform included. Raises InputError under another."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    ijkToRas = arrayFromMatrix(matrix)
    parent = volumeNode.GetParentTransformNode()
    if parent is None:
        return ijkToRas
    toWorld = vtk.vtkMatrix4x4()
    if not parent.IsTransformToWorldLinear():
        raise InputError(
            _("The {name} lies under the non-linear transform {parent}; harden it first, or take it out.").format(
                name=name, parent=parent.GetName()
            )
        )
    parent.GetMatrixTransformToWorld(toWorld)
    return arrayFromMatrix(toWorld) @ ijkToRas


def ijkToRasOfImage(image: sitk.Image) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ matrix


def setGeometry(image: sitk.Image, ijkToRas: np.ndarray, name: str = "volume") -> None:
    """Origin, spacing and direction of the image (LPS) from a 4x4 matrix. Raises InputError where axes are sheared."""
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
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def vtkMatrix(array: np.ndarray):
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, float).ravel().tolist())
    return matrix
