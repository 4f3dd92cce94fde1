"""The report of a registration as a table node: measure, value, and what the value means."""

from __future__ import annotations

import vtk

from ..translation import _
from .sceneResult import SceneResult


def addReportTable(result: SceneResult):
    """The vtkMRMLTableNode of the report of a result, created or filled again."""
    node = result.addTable("report", _("report"))
    fillTable(node, (_("Measure"), _("Value"), _("Meaning")), reportRows(result.report))
    return node


def fillTable(node, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Replace the content of a table node by columns of text."""
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
    """(measure, value, meaning) of a report; first the verdict, then warnings, then notes."""
    rows = [_verdictRow(report["verdict"])]
    rows += [(_("Warning"), "!", sentence) for sentence in report["warnings"]]
    rows += [(_("Note"), "", sentence) for sentence in report["notes"]]
    rows.append(_subjectRow(report["subject"]))
    rows += _linearRows(report) if report["transform_type"] != "deformable" else _deformableRows(report)
    rows += _storedRow(report.get("stored"))
    memory = f"{report['peak_memory_mb']['process']:.0f} MB"
    return [
        *rows,
        (_("Time"), f"{report['seconds']['total']:.1f} s", report["device"]["name"] or report["device"]["type"]),
        (_("Peak memory"), memory, _("Of the registration process.")),
    ]


def doneSentences(report: dict) -> str:
    """What is said of a registration that has just ended: its time, its outcome, and what to read or to know."""
    seconds, said = report["seconds"]["total"], []
    if report["transform_type"] == "deformable":
        folded = report["folding"]["central_voxels"]
        said.append(_("Done in {seconds:.0f} s; {folded} folded voxels.").format(seconds=seconds, folded=folded))
    else:
        similarity = _("Done in {seconds:.0f} s; similarity {before:.2f} -> {after:.2f}.")
        before, after = report["similarity"]["before"], report["similarity"]["after"]
        said.append(similarity.format(seconds=seconds, before=before, after=after))
    stored = report.get("stored")
    if stored is not None:
        error = _("Stored at {spacing:.2g} mm: points are off by {mean:.2f} mm on average, {max:.2f} mm at most.")
        said.append(error.format(spacing=stored["spacing_mm"], **stored["error_mm"]))
    if report["verdict"]["level"] != "good":
        said.append(_("Read the verdict above before you use the result."))
    elif report["warnings"]:
        said.append(_("Read the warning above before you use the result."))
    return " ".join(said)


def verdictTitle(level: str) -> str:
    """What the user reads for the level of a verdict."""
    return {"good": _("Good"), "check": _("Check"), "do not trust": _("Do not trust")}[level]


def millimeters(value: float) -> str:
    """A distance with one decimal, or one significant digit below 0.1 mm, as in small animals."""
    return f"{value:.1f}" if value >= 0.095 else f"{value:.1g}"


def expectedErrorSentence(report: dict) -> str:
    """What the values of the expected error mean in this result, in one or two sentences."""
    said = _("90 % of the errors are estimated to be below these values: {range}.").format(range=_errorRange(report))
    return f"{said} {_errorCaveat(report)}".rstrip()


def _errorRange(report: dict) -> str:
    expected = report["expected_error"]
    return _("median {median} mm, 95 % {p95} mm").format(
        median=millimeters(expected["median_mm"]), p95=millimeters(expected["p95_mm"])
    )


def _errorCaveat(report: dict) -> str:
    if report["verdict"]["level"] != "do not trust":
        return ""
    return _("This does not hold here, because the verdict is do not trust.")


def _expectedErrorRow(report: dict) -> list[tuple[str, str, str]]:
    if report.get("expected_error") is None:
        return []
    meaning = _(
        "90 % of the errors are estimated to be below these, at half and at 95 % of the voxels of the subject. "
        "Calibrated on pairs with a known deformation."
    )
    return [(_("Expected error"), _errorRange(report), f"{meaning} {_errorCaveat(report)}".rstrip())]


def _verdictRow(verdict: dict) -> tuple[str, str, str]:
    return (
        _("Verdict"),
        verdictTitle(verdict["level"]),
        " ".join(verdict["reasons"]) or _("Nothing points to a wrong result."),
    )


def _storedRow(stored: dict | None) -> list[tuple[str, str, str]]:
    if stored is None:
        return []
    value = _("at {spacing:.2g} mm").format(spacing=stored["spacing_mm"])
    meaning = _(
        "The stored transform is off by {mean:.3f} mm on average, 99 % below {p99:.3f} mm, {max:.3f} mm at most."
    )
    return [(_("Stored"), value, meaning.format(**stored["error_mm"]))]


def _linearRows(report: dict) -> list[tuple[str, str, str]]:
    similarity, ratio = report["similarity"], report["jacobian"]["max"]
    kind = _("rigid") if report["transform_type"] == "rigid" else _("affine")
    return [
        (
            _("Similarity"),
            f"{similarity['before']:.3f} -> {similarity['after']:.3f}",
            _("Squared local correlation before and after the registration; 1 is best."),
        ),
        *_segmentationRow(
            report["segmentation"],
            _("Overlap of eleven structures segmented by a network, before and after the registration; 1 is best."),
        ),
        (_("Transform"), kind, _("Linear: nothing is folded, and the inverse is exact.")),
        (_("Jacobian"), f"{ratio:.3f}", _("Volume of moving tissue divided by that of fixed tissue; 1 is unchanged.")),
    ]


def _deformableRows(report: dict) -> list[tuple[str, str, str]]:
    similarity, folding, jacobian = report["similarity"], report["folding"], report["jacobian"]
    displacement, consistency = report["displacement_mm"], report["inverse_consistency_mm"]
    return [
        (
            _("Similarity"),
            f"{similarity['before']:.3f} -> {similarity['after']:.3f}",
            _("Squared local correlation before and after the deformation; 1 is best."),
        ),
        *_segmentationRow(
            report["segmentation"],
            _("Overlap of eleven structures segmented by a network, before and after the deformation; 1 is best."),
        ),
        *_expectedErrorRow(report),
        (
            _("Folded voxels"),
            f"{folding['central_voxels']} / {folding['strict_voxels']}",
            _("By central differences / by one-sided differences at the eight corners of a voxel; 0 is best."),
        ),
        (
            _("Jacobian"),
            _("{low:.2f} to {high:.2f}").format(low=jacobian["min"], high=jacobian["max"]),
            _("Volume of moving tissue divided by that of fixed tissue; 1 is unchanged."),
        ),
        (
            _("Spread of log Jacobian"),
            f"{jacobian['sd_log']:.3f}",
            _("Standard deviation; a smaller value is a smoother deformation."),
        ),
        (
            _("Displacement"),
            _("mean {mean:.1f} mm, largest {max:.1f} mm").format(**displacement),
            _("In addition to the affine transform."),
        ),
        (
            _("Inverse consistency"),
            _("mean {mean:.3f} mm, largest {max:.3f} mm").format(**consistency),
            _("Distance of a point from where forward and inverse transform return it.")
            if consistency["inverse"] == "fields"
            else _("Inverted point by point, as Slicer does on demand; no inverse was requested."),
        ),
    ]


def _subjectRow(subject: dict) -> tuple[str, str, str]:
    kind = {"brain": _("brain"), "body": _("body")}[subject["kind"]]
    extent = " x ".join(f"{side:.0f}" if side >= 10 else f"{side:.2g}" for side in subject["extent_mm"])
    meaning = _(
        "What was found in the fixed volume, right-left x front-back x up-down; worked at {spacing:.2g} mm. "
        "{unseen:.0f} % of it is not in the moving volume."
    ).format(spacing=max(subject["working_spacing_mm"]), unseen=subject["unseen_percent"])
    return _("Subject"), f"{kind}, {extent} mm", meaning


def _segmentationRow(segmentation: dict | None, meaning: str) -> list[tuple[str, str, str]]:
    if segmentation is None:
        return []
    return [(_("Brain structures"), f"{segmentation['before']:.3f} -> {segmentation['after']:.3f}", meaning)]
