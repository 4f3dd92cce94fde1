"""The numbers of a report as lines of text."""

from __future__ import annotations

from typing import Any

from .progress import format_duration


def summary(report: dict[str, Any]) -> str:
    """The most important numbers of a report, and its warnings."""
    similarity, folding, jacobian = report["similarity"], report["folding"], report["jacobian"]
    inverse, seconds = report["inverse_consistency_mm"], report["seconds"]
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items() if stage != "total")
    lines = [
        f"similarity           {similarity['before']:.3f} -> {similarity['after']:.3f} ({similarity['measure']})",
        *_segmentation_line(report["segmentation"]),
        f"folded voxels        {folding['central_voxels']} central, {folding['strict_voxels']} strict, "
        f"of {folding['evaluated_voxels']}",
        f"Jacobian             {jacobian['min']:.3f} to {jacobian['max']:.2f}, sd of log {jacobian['sd_log']:.3f}",
        f"displacement         mean {report['displacement_mm']['mean']:.2f} mm, "
        f"max {report['displacement_mm']['max']:.2f} mm",
        f"inverse consistency  mean {inverse['mean']:.3f} mm, 99 % below {inverse['p99']:.3f} mm, "
        f"max {inverse['max']:.3f} mm" + (" (inverted point by point)" if inverse["inverse"] == "iteration" else ""),
        f"time                 {format_duration(seconds['total'])} on {report['device']['type']} (s: {stages})",
        f"peak memory          {report['peak_memory_mb']['process']:.0f} MB",
    ]
    return "\n".join(lines + [f"warning: {sentence}" for sentence in report["warnings"]])


def _segmentation_line(segmentation: dict[str, Any] | None) -> list[str]:
    if segmentation is None:
        return []
    before, after = segmentation["before"], segmentation["after"]
    return [f"brain structures     {before:.3f} -> {after:.3f} ({segmentation['measure']})"]
