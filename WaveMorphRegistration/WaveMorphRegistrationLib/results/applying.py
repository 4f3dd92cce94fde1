"""A result used elsewhere: put on other nodes, hardened, or written to a file for other programs."""

from __future__ import annotations

import os

import slicer
from wavemorph.errors import InputError, OutputError
from wavemorph.outputs import IMAGE_EXTENSIONS, TRANSFORM_EXTENSIONS, Outputs, write_image

from ..scene.transforms import exactField, sampledField
from ..scene.volumes import imageFromVolumeNode
from ..translation import _

FILE_FILTER = "ITK transform (*.h5 *.tfm);;Displacement field (*.nii.gz *.nrrd *.mha)"

def conventions() -> str:
    """What a file holds, for the reader who has to choose one."""
    return _(
        "Files hold fixed points -> moving points (the resampling direction of ITK and ANTs) in LPS millimetres; the "
        "inverse holds moving points -> fixed points. Fields in .nii.gz, .nrrd and .mha are vector images on the "
        "lattice of the fixed volume, for the inverse on that of the moving one."
    )


def applyTransform(transformNode, nodes, harden: bool = False) -> None:
    """Put nodes that lie in the moving volume's space under the transform, and harden it if asked for.

    Volumes keep their own lattice when hardened; the registered volume is the one on the fixed lattice. Raises
    InputError, before anything is touched, for a node that lies under another transform.
    """
    for node in nodes:
        parent = node.GetParentTransformNode()
        if node is transformNode:
            raise InputError(_("A transform cannot be applied to itself; choose other nodes."))
        if parent is not None and parent is not transformNode:
            raise InputError(
                _("{node} lies under the transform {parent}; harden that first, or take the node out.").format(
                    node=node.GetName(), parent=parent.GetName()
                )
            )
    for node in nodes:
        node.SetAndObserveTransformNodeID(transformNode.GetID())
        if harden:
            node.HardenTransform()


def towardsMoving(transformNode):
    """A new transform node that carries what lies in the fixed volume's space to the moving volume."""
    scene = transformNode.GetScene()
    name = _("{name}, for nodes in the fixed space").format(name=transformNode.GetName())
    node = scene.GetFirstNode(name, "vtkMRMLTransformNode") or scene.AddNewNodeByClass("vtkMRMLTransformNode", name)
    node.SetAndObserveTransformToParent(transformNode.GetTransformFromParent())
    return node


def exportTransform(transformNode, path: str | os.PathLike, overVolumeNode=None) -> None:
    """Write the transform as .h5, .tfm, .txt, or as a displacement field. Raises OutputError.

    A grid is written as it is; another transform is sampled over the volume. Written whole or not at all.
    """
    isField = str(path).lower().endswith(IMAGE_EXTENSIONS)
    field = exactField(transformNode) if isField else None
    if isField and field is None and overVolumeNode is None:
        raise OutputError(_("A displacement field needs a volume to lie over; choose one, or write .h5."))

    def write(node, target: str) -> None:
        if isField:
            write_image(field if field is not None else _overVolume(node, overVolumeNode), target)
            return
        storage = slicer.vtkMRMLTransformStorageNode()
        storage.SetFileName(str(target))
        if not storage.WriteData(node):
            raise OutputError(_('The transform could not be written to "{path}".').format(path=path))

    files = Outputs()
    files.add(path, write, TRANSFORM_EXTENSIONS, "transform")
    files.write(transformNode)


def _overVolume(transformNode, volumeNode):
    image = imageFromVolumeNode(volumeNode)
    return sampledField(transformNode, image, min(image.GetSpacing()))
