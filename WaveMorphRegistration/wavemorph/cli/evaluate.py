"""`wavemorph evaluate`: overlap, surface distance, landmarks and folding of a transform."""

from __future__ import annotations

import argparse
from typing import Any

import SimpleITK as sitk

from ..errors import SettingsError
from ..evaluation import landmarks, metrics
from ..io import labels, outputs, points, transforms
from ..io.text_files.label_names import read_label_names
from .options import given
from .progress import TerminalProgress


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("evaluate", help="overlap, surface distance, landmarks and folding of a transform")
    parser.add_argument("--transform", metavar="T", help="fixed points -> moving points; without it, the identity")
    parser.add_argument("--fixed-labels", metavar="FL")
    parser.add_argument("--moving-labels", metavar="ML")
    parser.add_argument("--label-names", metavar="FILE", help="lines of a number and a name, such as Slicer's .ctbl")
    parser.add_argument("--fixed-points", metavar="FP", help="landmarks (.csv, .mrk.json, .fcsv) on the fixed volume")
    parser.add_argument("--moving-points", metavar="MP", help="the same landmarks on the moving volume")
    parser.add_argument("--report", metavar="R", help="the numbers as .json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    """Print the numbers, and write them if a report is asked for."""
    if bool(options.fixed_labels) != bool(options.moving_labels):
        raise SettingsError("Dice needs both label maps; give --fixed-labels and --moving-labels.")
    if bool(options.fixed_points) != bool(options.moving_points):
        raise SettingsError("Landmarks come in pairs of lists; give --fixed-points and --moving-points.")
    if not options.fixed_labels and not options.fixed_points:
        raise SettingsError("Nothing is given to evaluate; give two label maps or two point lists.")
    files = outputs.Outputs(
        inputs=given(options, "transform", "fixed_labels", "moving_labels", "fixed_points", "moving_points")
    )
    if options.report:
        files.add(options.report, outputs.write_json, (".json",), "report")
    names = read_label_names(options.label_names) if options.label_names else {}
    transform = transforms.read_transform(options.transform) if options.transform else sitk.Transform()
    report: dict[str, Any] = {}
    lines: list[str] = []
    if options.fixed_labels:
        report.update(_evaluate_labels(options, transform))
        lines += _label_lines(report, names)
    if options.fixed_points:
        report["target_registration_error_mm"] = _evaluate_points(options, transform)
        lines += _point_lines(report["target_registration_error_mm"])
    written = files.write(report)  # before the output, whose reader may close it
    print("\n".join([*lines, *(f"written: {path}" for path in written)]))


def _evaluate_labels(options: argparse.Namespace, transform: sitk.Transform) -> dict[str, Any]:
    """Dice, HD95 and folding inside the fixed labels."""
    fixed = labels.read_label_map(options.fixed_labels, "fixed label map")
    moving = labels.read_label_map(options.moving_labels, "moving label map")
    return {
        "labels": metrics.label_report(fixed, moving, transform),
        "folding": metrics.folding(outputs.flattened_field(transform, fixed.layers[0]), fixed.foreground),
    }


def _label_lines(report: dict[str, Any], names: dict[int, str]) -> list[str]:
    folding = report["folding"]
    return [
        metrics.format_table(report["labels"], names),
        *(f"note: {remark}" for remark in report["labels"]["remarks"]),
        f"folded voxels: {folding['central_percent']:.4f} % by central differences, "
        f"{folding['strict_percent']:.4f} % by the strict test; sd of log |J| {folding['sd_log']:.3f}",
    ]


def _evaluate_points(options: argparse.Namespace, transform: sitk.Transform) -> dict[str, Any]:
    """The target registration error in mm of each pair, and what was left out."""
    fixed = points.read_points(options.fixed_points, "fixed point list")
    moving = points.read_points(options.moving_points, "moving point list")
    return landmarks.landmark_report(landmarks.pair_landmarks(fixed, moving), transform)


def _point_lines(report: dict[str, Any]) -> list[str]:
    count = len(report["landmarks"])
    return [
        f"landmarks: mean error {report['mean']:.3f} mm, max {report['max']:.3f} mm, {count} "
        f"{'pair' if count == 1 else 'pairs'} by {report['paired_by']}",
        *(f"note: {remark}" for remark in report["remarks"]),
    ]
