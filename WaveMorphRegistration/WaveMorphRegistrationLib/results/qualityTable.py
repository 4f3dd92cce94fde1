"""How well structures and landmarks agree after a registration, and how their volumes differ, as table nodes."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from wavemorph import evaluation
from wavemorph.errors import InputError

from ..scene.landmarks import landmarksFromNode
from ..scene.segmentations import labelsFromNode, segmentNames
from ..scene.transforms import transformFromNode
from ..scene.volumes import imageFromVolumeNode
from ..translation import _
from .reportTable import fillTable
from .resultNodes import placeBeside


def addOverlapTable(transformNode, fixedNode, movingNode, fixedSegmentation, movingSegmentation):
    """Dice and HD95 of each structure of the same name in both, before and after. Raises InputError."""
    names = segmentNames(fixedSegmentation)
    fixed = labelsFromNode(fixedSegmentation, fixedNode, _("fixed segmentation"))
    moving = labelsFromNode(movingSegmentation, movingNode, _("moving segmentation"))
    moving = _renumbered(moving, segmentNames(movingSegmentation), names)
    transform = transformFromNode(transformNode, fixed)
    report = evaluation.label_report(fixed, moving, transform)
    rows = [
        (names.get(int(label), str(label)), *_cells(measure))
        for label, measure in [*report["labels"].items()]
    ]
    rows.append((_("mean"), *_cells(report["mean"])))
    header = (_("Structure"), _("Dice before"), _("Dice after"), _("HD95 before, mm"), _("HD95 after, mm"))
    return _table(_("overlap"), fixedNode, movingNode, header, rows)


def addLandmarkTable(transformNode, fixedNode, movingNode, fixedPoints, movingPoints):
    """Distance between corresponding landmarks before and after, point by point. Raises InputError."""
    fixed, moving = landmarksFromNode(fixedPoints), landmarksFromNode(movingPoints)
    transform = transformFromNode(transformNode, imageFromVolumeNode(fixedNode))
    before = evaluation.target_registration_error_mm(sitk.Transform(), fixed, moving)
    after = evaluation.target_registration_error_mm(transform, fixed, moving)
    rows = [
        (fixedPoints.GetNthControlPointLabel(index), f"{pair[0]:.2f}", f"{pair[1]:.2f}")
        for index, pair in enumerate(zip(before, after))
    ]
    rows.append((_("mean"), f"{before.mean():.2f}", f"{after.mean():.2f}"))
    header = (_("Landmark"), _("Before, mm"), _("After, mm"))
    return _table(_("landmarks"), fixedNode, movingNode, header, rows)


def addVolumeTable(jacobianNode, fixedNode, movingNode, fixedSegmentation):
    """The volume of each structure drawn on the fixed volume, and of the same tissue in the moving one, in ml."""
    names = segmentNames(fixedSegmentation)
    labels = labelsFromNode(fixedSegmentation, fixedNode, _("fixed segmentation"))
    jacobian = sitk.GetArrayFromImage(sitk.Resample(imageFromVolumeNode(jacobianNode), labels))
    array = sitk.GetArrayFromImage(labels)
    voxelMl = float(np.prod(labels.GetSpacing())) / 1000
    rows = []
    for label in np.unique(array[array > 0]):
        inside = array == label
        fixed = inside.sum() * voxelMl
        moving = float(jacobian[inside].sum()) * voxelMl
        rows.append(
            (names.get(int(label), str(label)), f"{fixed:.2f}", f"{moving:.2f}", f"{100 * (moving / fixed - 1):+.1f}")
        )
    if not rows:
        raise InputError(_("The segmentation {name} has no voxels.").format(name=fixedSegmentation.GetName()))
    header = (_("Structure"), _("Fixed, ml"), _("Moving, ml"), _("Moving larger by, %"))
    return _table(_("volumes"), fixedNode, movingNode, header, rows)


def _renumbered(moving: sitk.Image, movingNames: dict[int, str], fixedNames: dict[int, str]) -> sitk.Image:
    """Structures are the same where their names are; where no name is shared, where their numbers are."""
    numbers = {name: number for number, name in fixedNames.items()}
    shared = {own: numbers[name] for own, name in movingNames.items() if name in numbers}
    if not shared:
        return moving
    array = sitk.GetArrayFromImage(moving)
    renumbered = np.zeros(array.shape, np.int16)
    for own, number in shared.items():
        renumbered[array == own] = number
    image = sitk.GetImageFromArray(renumbered)
    image.CopyInformation(moving)
    return image


def _cells(measure: dict) -> list[str]:
    keys = (("dice_before", ".3f"), ("dice_after", ".3f"), ("hd95_before_mm", ".2f"), ("hd95_after_mm", ".2f"))
    return [format(measure[key], form) if measure[key] is not None else "-" for key, form in keys]


def _table(kind: str, fixedNode, movingNode, header, rows):
    scene = fixedNode.GetScene()
    name = _("{moving} to {fixed} {kind}").format(moving=movingNode.GetName(), fixed=fixedNode.GetName(), kind=kind)
    node = scene.GetFirstNode(name, "vtkMRMLTableNode") or scene.AddNewNodeByClass("vtkMRMLTableNode", name)
    fillTable(node, header, rows)
    placeBeside(fixedNode, node, scene)
    return node
