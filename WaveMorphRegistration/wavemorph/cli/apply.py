"""`wavemorph apply`: apply a transform to a volume, a label map or points."""

from __future__ import annotations

import argparse
from typing import Any

import SimpleITK as sitk

from ..errors import SettingsError
from ..evaluation import metrics
from ..io import images, outputs, points
from ..io.reading import read_lattice, read_volume
from ..io.result import warp_image
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
    what.add_argument("--points", metavar="P", help="points (.csv, .mrk.json) in the space that T maps from")
    parser.add_argument("--reference", metavar="F", help="the fixed volume: its lattice becomes that of the output")
    parser.add_argument("--series", metavar="S", help=SEVERAL_IMAGES)
    parser.add_argument("--output", required=True, metavar="O")
    parser.add_argument("--interpolation", choices=sorted(_INTERPOLATORS), default="linear", help="for --image")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    """Apply the transform and write the output."""
    files = outputs.Outputs(inputs=given(options, "transform", "image", "labels", "points", "reference"))
    if options.points:
        files.add(options.output, points.write_points, points.POINT_EXTENSIONS, "output")
        listed = points.read_points(options.points)
        transform = images.read_transform(options.transform)
        result: Any = listed.moved_to(points.transform_points(listed.positions, transform))
    else:
        files.add(options.output, outputs.write_image, outputs.IMAGE_EXTENSIONS, "output")
        if not options.reference:
            raise SettingsError("The output needs a lattice; give the fixed volume as --reference.")
        result = _resampled(options)
    print("\n".join(f"written: {path}" for path in files.write(result)))


def _resampled(options: argparse.Namespace) -> sitk.Image:
    reference = read_lattice(options.reference, "reference image", options.series)
    transform = images.read_transform(options.transform)
    if options.labels:
        return metrics.warp_labels(images.read_labels(options.labels), reference, transform)
    volume = read_volume(options.image, series=options.series)
    say(volume.remarks)
    return warp_image(volume.image, reference, transform, _INTERPOLATORS[options.interpolation])
