"""The numbers of a registration as a table node: what was measured, its value, and what it means."""

from __future__ import annotations

import vtk

from ..translation import _
from .resultNodes import FIXED_ROLE, MOVING_ROLE, placeBeside


def addReportTable(report: dict, fixedNode, movingNode):
    """A new vtkMRMLTableNode for a report, beside the fixed volume."""
    scene = fixedNode.GetScene()
    name = _("{moving} to {fixed} report").format(moving=movingNode.GetName(), fixed=fixedNode.GetName())
    node = scene.GetFirstNode(name, "vtkMRMLTableNode") or scene.AddNewNodeByClass("vtkMRMLTableNode", name)
    fillTable(node, (_("Measure"), _("Value"), _("Meaning")), reportRows(report))
    node.SetNodeReferenceID(FIXED_ROLE, fixedNode.GetID())
    node.SetNodeReferenceID(MOVING_ROLE, movingNode.GetID())
    placeBeside(fixedNode, node, scene)
    return node


def fillTable(node, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Replace what the table node holds by columns of text."""
    table = vtk.vtkTable()
    for column, title in enumerate(header):
        values = vtk.vtkStringArray()
        values.SetName(title)
        for row in rows:
            values.InsertNextValue(row[column])
        table.AddColumn(values)
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)


def reportRows(report: dict) -> list[tuple[str, str, str]]:
    """(measure, value, meaning) for a person; warnings first."""
    similarity, folding, jacobian = report["similarity"], report["folding"], report["jacobian"]
    moved, inverse = report["displacement_mm"], report["inverse_consistency_mm"]
    rows = [(_("Warning"), "!", sentence) for sentence in report["warnings"]]
    rows += [
        (
            _("Similarity"),
            f"{similarity['before']:.3f} -> {similarity['after']:.3f}",
            _("Squared local correlation before and after the deformation; 1 is best."),
        ),
        *_structuresRow(report["anatomy"]),
        (
            _("Folded voxels"),
            f"{folding['central_voxels']} / {folding['strict_voxels']}",
            _("By central differences / by the strict test of eight corners; 0 is right."),
        ),
        (
            _("Jacobian"),
            _("{low:.2f} to {high:.2f}").format(low=jacobian["min"], high=jacobian["max"]),
            _("Volume of moving tissue over fixed tissue; 1 is unchanged."),
        ),
        (_("Spread of log Jacobian"), f"{jacobian['sd_log']:.3f}", _("How unevenly volumes change; less is smoother.")),
        (
            _("Displacement"),
            _("mean {mean:.1f} mm, largest {max:.1f} mm").format(**moved),
            _("Beyond the affine part."),
        ),
        (
            _("There and back"),
            _("mean {mean:.3f} mm, largest {max:.3f} mm").format(**inverse),
            _("How far forward and inverse miss the point they started from.")
            if inverse["inverse"] == "fields"
            else _("No inverse was asked for; inverted point by point, as Slicer does on demand."),
        ),
        (_("Time"), f"{report['seconds']['total']:.1f} s", report["device"]["name"] or report["device"]["type"]),
        (_("Peak memory"), f"{report['peak_memory_mb']['process']:.0f} MB", _("Of the engine's process.")),
    ]
    return rows


def _structuresRow(anatomy: dict | None) -> list[tuple[str, str, str]]:
    if anatomy is None:
        return []
    meaning = _("Overlap of eleven structures as a network sees them, before and after the deformation; 1 is best.")
    return [(_("Brain structures"), f"{anatomy['before']:.3f} -> {anatomy['after']:.3f}", meaning)]
