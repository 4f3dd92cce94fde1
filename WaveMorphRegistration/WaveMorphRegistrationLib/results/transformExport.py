"""Write a transform to a file for other programs."""

from __future__ import annotations

import os

import slicer
from wavemorph.errors import OutputError
from wavemorph.io.outputs import IMAGE_EXTENSIONS, TRANSFORM_EXTENSIONS, Outputs, write_image

from ..scene.transforms import sampledDisplacement, storedDisplacement
from ..scene.volumes import imageFromVolumeNode
from ..translation import _

FILE_FILTER = "ITK transform (*.h5 *.tfm);;Displacement field (*.nii.gz *.nrrd *.mha)"


def fileConventions() -> str:
    """What the files contain, for the user who chooses a format."""
    return _(
        "Files map fixed points to moving points (the resampling direction of ITK and ANTs) in LPS millimeters; the "
        "inverse maps moving points to fixed points. Displacement fields (.nii.gz, .nrrd, .mha) are vector images on "
        "the voxels of the fixed volume; for the inverse, on those of the moving volume."
    )


def exportTransform(transformNode, path: str | os.PathLike, overVolumeNode=None) -> None:
    """Write the transform as .h5, .tfm or .txt, or as a displacement field; the file is complete or not written.

    overVolumeNode: a displacement field that the node does not hold itself is sampled on the voxels of this volume.
    Raises OutputError.
    """
    asField = str(path).lower().endswith(IMAGE_EXTENSIONS)
    displacement = storedDisplacement(transformNode) if asField else None
    if asField and displacement is None and overVolumeNode is None:
        raise OutputError(_("A displacement field is sampled on the voxels of a volume; choose one, or write .h5."))

    def write(node, target: str) -> None:
        if asField:
            write_image(displacement if displacement is not None else _sampled(node, overVolumeNode), target)
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
    return sampledDisplacement(transformNode, image, min(image.GetSpacing()))
