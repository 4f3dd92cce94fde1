"""Write a transform to a file for other programs."""

from __future__ import annotations

import os
import re

import slicer
from wavemorph.errors import OutputError
from wavemorph.io.fields import extended_lattice, rounded_field
from wavemorph.io.outputs import IMAGE_EXTENSIONS, TRANSFORM_EXTENSIONS, Outputs, write_field
from wavemorph.io.result import box_corners

from ..scene.coordinates import FLIP_XY
from ..scene.transforms import sampledDisplacement, storedDisplacement
from ..scene.volumes import imageFromVolumeNode
from ..translation import _
from .sceneResult import FIXED_ROLE, MOVING_ROLE

FILE_FILTER = "ITK transform (*.h5 *.tfm);;Displacement field (*.nii.gz *.nrrd *.mha)"


def fileConventions() -> str:
    """What the files contain, for the user who chooses a format."""
    return _(
        "Files map fixed points to moving points (the resampling direction of ITK and ANTs) in LPS millimeters; the "
        "inverse maps moving points to fixed points. A displacement field (.nii.gz, .nrrd, .mha) is a vector image "
        "over both volumes; .h5 is larger, and exact beyond them too."
    )


def completedPath(path: str, nameFilter: str) -> str:
    """The path with the first extension of the filter, "Name (*.ext1 *.ext2)", where its name has none.

    What follows a dot is an extension where it begins with a letter: "patient 1.5" has none.
    """
    if re.search(r"[^.]\.[A-Za-z]\w*$", os.path.basename(path)):
        return path
    extensions = re.findall(r"\*(\.[\w.]+)", nameFilter)
    return path.rstrip(".") + extensions[0] if extensions else path


def exportTransform(transformNode, path: str | os.PathLike, overVolumeNode=None) -> None:
    """Write the transform as .h5, .tfm or .txt, or as a displacement field; the file is complete or not written.

    overVolumeNode: a displacement field that the node does not hold itself is sampled on the voxels of this volume,
        continued over what the node maps to the other volume to which it refers.
    Raises OutputError.
    """
    asField = str(path).lower().endswith(IMAGE_EXTENSIONS)
    displacement = storedDisplacement(transformNode) if asField else None
    if asField and displacement is None and overVolumeNode is None:
        raise OutputError(_("A displacement field is sampled on the voxels of a volume; choose one, or write .h5."))

    def write(node, target: str) -> None:
        if asField:
            write_field(displacement if displacement is not None else _sampled(node, overVolumeNode), target)
            return
        storage = slicer.vtkMRMLTransformStorageNode()
        storage.SetScene(node.GetScene())
        storage.SetFileName(str(target))
        if not storage.WriteData(node):
            raise OutputError(_('The transform could not be written to "{path}".').format(path=path))

    files = Outputs()
    files.add(path, write, TRANSFORM_EXTENSIONS, "transform")
    files.write(transformNode)


def _sampled(transformNode, volumeNode):
    image = imageFromVolumeNode(volumeNode)
    toImage, reached = transformNode.GetTransformToParent(), []
    for role in (FIXED_ROLE, MOVING_ROLE):
        other = transformNode.GetNodeReference(role)
        if other is not None and other is not volumeNode and other.GetImageData() is not None:
            corners = box_corners(imageFromVolumeNode(other))
            reached += [FLIP_XY * toImage.TransformPoint(FLIP_XY * corner) for corner in corners]
    lattice = extended_lattice(image, box_corners(image), [point.tolist() for point in reached])
    field = sampledDisplacement(transformNode, lattice, min(image.GetSpacing()))
    return field if transformNode.IsLinear() else rounded_field(field)
