"""Agreement of structures and landmarks after a registration, and differences of volume, as table nodes."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from wavemorph.errors import InputError
from wavemorph.evaluation import landmarks, metrics
from wavemorph.io.labels import label_map_of

from ..scene.landmarks import landmarksFromNode
from ..scene.segmentations import labelsFromNode, segmentNames
from ..scene.transforms import transformFromNode
from ..scene.volumes import imageFromVolumeNode
from ..translation import _
from .reportTable import fillTable
from .resultNodes import placeInFolderOf


def addOverlapTable(transformNode, fixedNode, movingNode, fixedSegmentation, movingSegmentation):
    """A table of Dice and HD95 (mm), before and after, of each structure of either segmentation.

    Structures are paired as in `wavemorph evaluate`: by name, or by label with a row that says so.

    Raises InputError where a segmentation cannot be read.
    """
    fixed, moving = (
        label_map_of(labelsFromNode(node, volume, name), name, segmentNames(node))
        for node, volume, name in (
            (fixedSegmentation, fixedNode, _("fixed segmentation")),
            (movingSegmentation, movingNode, _("moving segmentation")),
        )
    )
    report = metrics.label_report(fixed, moving, transformFromNode(transformNode, fixed.layers[0]))
    rows = [(measure["name"] or str(label), *_overlapCells(measure)) for label, measure in report["labels"].items()]
    rows += [(remark, "", "", "", "") for remark in report["remarks"]]
    rows += [(_(title), *_overlapCells(mean)) for title, mean in metrics.mean_rows(report)]
    header = (_("Structure"), _("Dice before"), _("Dice after"), _("HD95 before, mm"), _("HD95 after, mm"))
    return _addTable(_("overlap"), fixedNode, movingNode, header, rows)


def addLandmarkTable(transformNode, fixedNode, movingNode, fixedPoints, movingPoints):
    """A table of the distance (mm) between corresponding control points, before and after.

    Control points are paired as in `wavemorph evaluate`: by label, or by order with a row that says so. Those that have
    no position in one of the lists, or no partner, have a row without distances.
    Raises InputError where the control points cannot be paired.
    """
    pairs = landmarks.pair_landmarks(landmarksFromNode(fixedPoints), landmarksFromNode(movingPoints))
    transform = transformFromNode(transformNode, imageFromVolumeNode(fixedNode))
    before, after = (landmarks.landmark_report(pairs, through) for through in (sitk.Transform(), transform))
    rows = [
        (first["name"], f"{first['error_mm']:.2f}", f"{second['error_mm']:.2f}")
        for first, second in zip(before["landmarks"], after["landmarks"])
    ]
    rows += [(name, "-", "-") for name in pairs.left_out]
    rows += [(remark, "", "") for remark in pairs.remarks]
    rows.append((_("mean"), f"{before['mean']:.2f}", f"{after['mean']:.2f}"))
    header = (_("Landmark"), _("Before, mm"), _("After, mm"))
    return _addTable(_("landmarks"), fixedNode, movingNode, header, rows)


def addVolumeTable(jacobianNode, fixedNode, movingNode, fixedSegmentation):
    """A table of the volume (ml) of each structure of the fixed volume, and of the same tissue in the moving volume.

    Raises InputError where the segmentation has no voxels.
    """
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
    return _addTable(_("volumes"), fixedNode, movingNode, header, rows)


def _overlapCells(measure: dict) -> list[str]:
    keys = (("dice_before", ".3f"), ("dice_after", ".3f"), ("hd95_before_mm", ".2f"), ("hd95_after_mm", ".2f"))
    return [format(measure[key], form) if measure[key] is not None else "-" for key, form in keys]


def _addTable(kind: str, fixedNode, movingNode, header, rows):
    scene = fixedNode.GetScene()
    name = _("{moving} to {fixed} {kind}").format(moving=movingNode.GetName(), fixed=fixedNode.GetName(), kind=kind)
    node = scene.GetFirstNode(name, "vtkMRMLTableNode") or scene.AddNewNodeByClass("vtkMRMLTableNode", name)
    fillTable(node, header, rows)
    placeInFolderOf(fixedNode, node)
    return node
