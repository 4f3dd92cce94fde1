"""The numbers of a report as lines of text."""

from __future__ import annotations

from typing import Any

from .progress import format_duration


def summary(report: dict[str, Any]) -> str:
    """The verdict of a report with its reasons, the most important numbers, other warnings, and notes."""
    similarity, seconds = report["similarity"], report["seconds"]
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items() if stage != "total")
    verdict = report["verdict"]
    lines = [
        f"verdict              {verdict['level']}",
        *(f"reason: {sentence}" for sentence in verdict["reasons"]),
        _subject_line(report["subject"]),
        f"similarity           {similarity['before']:.3f} -> {similarity['after']:.3f} ({similarity['measure']})",
        *_segmentation_line(report["segmentation"]),
        *_map_lines(report),
        *_expected_error_line(report.get("expected_error"), verdict["level"]),
        *_stored_line(report.get("stored")),
        f"time                 {format_duration(seconds['total'])} on {report['device']['type']} (s: {stages})",
        f"peak memory          {report['peak_memory_mb']['process']:.0f} MB",
    ]
    lines += [f"warning: {sentence}" for sentence in report["warnings"] if sentence not in verdict["reasons"]]
    lines += [f"note: {sentence}" for sentence in report["notes"]]
    return "\n".join(lines)


def _map_lines(report: dict[str, Any]) -> list[str]:
    folding, jacobian, inverse = report["folding"], report["jacobian"], report["inverse_consistency_mm"]
    if inverse["inverse"] == "linear":
        return [f"transform            {report['transform_type']}, Jacobian {jacobian['max']:.3f} everywhere"]
    return [
        f"folded voxels        {folding['central_voxels']} central, {folding['strict_voxels']} strict, "
        f"of {folding['evaluated_voxels']}",
        f"Jacobian             {jacobian['min']:.3f} to {jacobian['max']:.2f}, sd of log {jacobian['sd_log']:.3f}",
        f"displacement         mean {report['displacement_mm']['mean']:.2f} mm, "
        f"max {report['displacement_mm']['max']:.2f} mm",
        f"inverse consistency  mean {inverse['mean']:.3f} mm, 99 % below {inverse['p99']:.3f} mm, "
        f"max {inverse['max']:.3f} mm" + (" (inverted point by point)" if inverse["inverse"] == "iteration" else ""),
    ]


def _expected_error_line(expected: dict[str, Any] | None, level: str) -> list[str]:
    if expected is None:
        return []
    if level == "do not trust":
        return ["expected error       not known: an alignment that is wrong as a whole can agree with itself"]
    return [
        f"expected error       {expected['probability_percent']:.0f} % of errors below {expected['median_mm']:.2f} mm "
        f"(median voxel), {expected['p95_mm']:.2f} mm (95th percentile of voxels)"
    ]


def _stored_line(stored: dict[str, Any] | None) -> list[str]:
    if stored is None:
        return []
    error = stored["error_mm"]
    return [
        f"stored at            {stored['spacing_mm']:.2g} mm, off by {error['mean']:.3f} mm on average, 99 % below "
        f"{error['p99']:.3f} mm, max {error['max']:.3f} mm"
    ]


def _subject_line(subject: dict[str, Any]) -> str:
    extent = " x ".join(f"{side:.0f}" if side >= 10 else f"{side:.2g}" for side in subject["extent_mm"])
    spacing, unseen = max(subject["working_spacing_mm"]), round(subject["unseen_percent"])
    missing = f"; {unseen} % not in the moving volume" if unseen else ""
    return f"subject              {subject['kind']}, {extent} mm, worked at {spacing:.2g} mm{missing}"


def _segmentation_line(segmentation: dict[str, Any] | None) -> list[str]:
    if segmentation is None:
        return []
    before, after = segmentation["before"], segmentation["after"]
    return [f"brain structures     {before:.3f} -> {after:.3f} ({segmentation['measure']})"]
