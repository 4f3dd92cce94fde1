"""`wavemorph apply`: apply a transform to a volume, a label map or points."""

from __future__ import annotations

import argparse
from typing import Any

import SimpleITK as sitk

from ..errors import SettingsError
from ..io import labels, outputs, points, transforms
from ..io.reading import read_lattice, read_volume
from ..io.warping import warp_image
from .inputs import say
from .options import SEVERAL_IMAGES, given
from .progress import TerminalProgress

_INTERPOLATORS = {
    "linear": sitk.sitkLinear,
    "nearest": sitk.sitkNearestNeighbor,
    "bspline": sitk.sitkBSpline,
    "sinc": sitk.sitkLanczosWindowedSinc,
}


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("apply", help="apply a transform to a volume, a label map or points")
    parser.add_argument("--transform", required=True, metavar="T", help="fixed points -> moving points, or an inverse")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--image", metavar="M", help="a volume in the moving space")
    what.add_argument("--labels", metavar="L", help="a label map in the moving space (nearest neighbor)")
    what.add_argument("--points", metavar="P", help="points (.csv, .mrk.json, .fcsv) in the space that T maps from")
    parser.add_argument("--reference", metavar="F", help="the fixed volume: its lattice becomes that of the output")
    parser.add_argument("--series", metavar="S", help=SEVERAL_IMAGES)
    parser.add_argument("--reference-series", metavar="S", help="the same for the reference alone")
    parser.add_argument("--output", required=True, metavar="O")
    parser.add_argument("--interpolation", choices=sorted(_INTERPOLATORS), default="linear", help="for --image")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    """Apply the transform and write the output."""
    files = outputs.Outputs(inputs=given(options, "transform", "image", "labels", "points", "reference"))
    if not options.points and not options.reference:
        raise SettingsError("The output needs a lattice; give the fixed volume as --reference.")
    result: Any
    notes: list[str] = []
    if options.points:
        files.add(options.output, points.write_points, points.POINT_EXTENSIONS, "output")
        result, notes = _moved_points(options)
    elif options.labels:
        files.add(options.output, outputs.write_label_map, outputs.IMAGE_EXTENSIONS, "output")
        result, notes = _warped_labels(options)
    else:
        files.add(options.output, outputs.write_image, outputs.IMAGE_EXTENSIONS, "output")
        result = _warped_image(options)
    written = files.write(result)
    print("\n".join([*(f"note: {note}" for note in notes), *(f"written: {path}" for path in written)]))


def _moved_points(options: argparse.Namespace) -> tuple[points.PointList, list[str]]:
    """The transformed points, and a note on those without a position."""
    listed = points.read_points(options.points)
    transform = transforms.read_transform(options.transform)
    moved = listed.moved_to(points.transform_points(listed.positions, transform))
    count = f"{len(listed.unset)} of {len(listed.entries())} points"
    return moved, [f"{count} have no position and stay without one"] if listed.unset else []


def _warped_labels(options: argparse.Namespace) -> tuple[labels.LabelMap, list[str]]:
    """The label map on the lattice of the reference, and a note where the output cannot hold its names."""
    label_map = labels.read_label_map(options.labels)
    say(label_map.remarks)
    warped = labels.warp_label_map(label_map, *_lattice_and_transform(options))
    lost = bool(label_map.names) and not outputs.holds_names(options.output)
    count = f"{len(label_map.names)} structures"
    return warped, [f"only .nrrd holds the names of the {count}; write .seg.nrrd to keep them"] if lost else []


def _warped_image(options: argparse.Namespace) -> sitk.Image:
    reference, transform = _lattice_and_transform(options)
    volume = read_volume(options.image, series=options.series)
    say(volume.remarks)
    return warp_image(volume.image, reference, transform, _INTERPOLATORS[options.interpolation])


def _lattice_and_transform(options: argparse.Namespace) -> tuple[sitk.Image, sitk.Transform]:
    series = options.reference_series or options.series
    reference = read_lattice(options.reference, "reference image", series)
    return reference, transforms.read_transform(options.transform)
