"""The command `wavemorph`: the same road as in Slicer, for a shell. Torch is imported only by what needs it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from . import __version__, evaluation, images, outputs, points
from .errors import Cancelled, InputError, OutOfMemoryError, SettingsError, WaveMorphError
from .process import let_threads_sleep
from .progress import TerminalProgress, spoken
from .result import Registration, warp_image
from .settings import CONTRASTS, DEVICES, PRESETS, SIMILARITIES, Settings
from .training.commands import add_commands as add_training_commands

_INTERPOLATORS = {
    "linear": sitk.sitkLinear,
    "nearest": sitk.sitkNearestNeighbor,
    "bspline": sitk.sitkBSpline,
    "sinc": sitk.sitkLanczosWindowedSinc,
}
_EPILOGUE = """\
Transforms map fixed points to moving points (the resampling direction of ITK, ANTs and Slicer), in LPS mm.
Exit codes: 0 done, 1 unexpected, 2 an input or a setting, 3 an output, 4 the device, 5 the weights, 6 memory,
130 cancelled."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. WAVEMORPH_DEBUG=1 shows where an error came from."""
    let_threads_sleep()
    options = _parser().parse_args(arguments)
    progress = None if getattr(options, "quiet", False) else TerminalProgress()
    try:
        options.run(options, progress)
        return 0
    except (WaveMorphError, KeyboardInterrupt, MemoryError, Exception) as error:
        if os.environ.get("WAVEMORPH_DEBUG"):
            raise
        if progress is not None:
            progress.interrupt()
        sentence, code = _said(error)
        print(f"wavemorph: {sentence}", file=sys.stderr)
        return code


def _said(error: BaseException) -> tuple[str, int]:
    if isinstance(error, KeyboardInterrupt):
        error = Cancelled("Cancelled; nothing was written.")
    elif isinstance(error, MemoryError):
        error = OutOfMemoryError("Memory ran out; close other programs or give smaller volumes.")
    if isinstance(error, WaveMorphError):
        return str(error), error.exit_code
    gist = " ".join(str(error).split())[:200] or "no details"
    return f"Unexpected {type(error).__name__} ({gist}); set WAVEMORPH_DEBUG=1 to see where.", 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wavemorph", description=__doc__.splitlines()[0], epilog=_EPILOGUE)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--version", action="version", version=f"wavemorph {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    register = commands.add_parser("register", help="register a moving volume to a fixed one", epilog=_EPILOGUE)
    _add_pair(register)
    _add_outputs(register, transform_required=True)
    register.add_argument("--fixed-labels", metavar="FL", help="label map of the fixed volume, for Dice and HD95")
    register.add_argument("--moving-labels", metavar="ML", help="label map of the moving volume")
    register.add_argument("--label-names", metavar="FILE", help="lines of a number and a name, such as Slicer's .ctbl")
    register.set_defaults(run=_register)

    scene = commands.add_parser("scene", help="register, and write a Slicer scene (.mrb) and a picture of the result")
    _add_pair(scene)
    scene.add_argument("--output", required=True, metavar="CASE.mrb", help="the scene bundle, opens in Slicer")
    scene.add_argument("--picture", metavar="P.png", help="by default beside the bundle, as CASE.png")
    scene.add_argument("--with-inverse", action="store_true", help="a node for the inverse transform too")
    _add_outputs(scene, transform_required=False)
    scene.set_defaults(run=_scene)

    demo = commands.add_parser("demo", help="register a real brain with a known answer, and look at the result")
    demo.add_argument("--output", default="demo-output", metavar="FOLDER", help="default: demo-output")
    demo.add_argument("--fixed", metavar="F", help="with --moving: your own pair instead")
    demo.add_argument("--moving", metavar="M")
    _add_choices(demo)
    demo.set_defaults(run=_demo)

    apply = commands.add_parser("apply", help="carry a volume, label map or points through a transform")
    apply.add_argument("--transform", required=True, metavar="T", help="fixed points -> moving points, or an inverse")
    what = apply.add_mutually_exclusive_group(required=True)
    what.add_argument("--image", metavar="M", help="a volume in the moving space")
    what.add_argument("--labels", metavar="L", help="a label map in the moving space (nearest neighbour)")
    what.add_argument("--points", metavar="P", help="points (.csv, .mrk.json): from the space that T starts in")
    apply.add_argument("--reference", metavar="F", help="the fixed volume: the lattice of the output")
    apply.add_argument("--output", required=True, metavar="O")
    apply.add_argument("--interpolation", choices=sorted(_INTERPOLATORS), default="linear", help="for --image")
    apply.set_defaults(run=_apply)

    evaluate = commands.add_parser("evaluate", help="overlap, surface distance, landmarks and folding of a transform")
    evaluate.add_argument("--transform", metavar="T", help="fixed points -> moving points; without it, as they lie")
    evaluate.add_argument("--fixed-labels", metavar="FL")
    evaluate.add_argument("--moving-labels", metavar="ML")
    evaluate.add_argument("--label-names", metavar="FILE", help="lines of a number and a name, such as Slicer's .ctbl")
    evaluate.add_argument("--fixed-points", metavar="FP", help="landmarks (.csv, .mrk.json) on the fixed volume")
    evaluate.add_argument("--moving-points", metavar="MP", help="the same landmarks on the moving volume")
    evaluate.add_argument("--report", metavar="R", help="the numbers as .json")
    evaluate.set_defaults(run=_evaluate)

    add_training_commands(commands)
    models = commands.add_parser("models", help="list the models that are installed")
    models.add_argument("--complexity", action="store_true", help="parameters and multiply-adds of the network instead")
    models.set_defaults(run=_models)
    return parser


def _add_pair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fixed", required=True, metavar="F", help="the volume that stays")
    parser.add_argument("--moving", required=True, metavar="M", help="the volume that is aligned to it")
    parser.add_argument("--fixed-mask", metavar="FM", help="compare only where this is not 0")
    parser.add_argument("--moving-mask", metavar="MM", help="compare only where this is not 0")
    parser.add_argument("--initial-transform", metavar="T", help="where to start: fixed points -> moving points")
    parser.add_argument("--aligned", action="store_true", help="skip the affine stage: the pair lies well already")
    _add_choices(parser)


def _add_choices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="Balanced", help=f"{', '.join(PRESETS)} (default: Balanced)")
    parser.add_argument("--contrast", default="auto", help=f"{', '.join(CONTRASTS)} (default: auto, which measures it)")
    parser.add_argument("--similarity", default="auto", help=f"{', '.join(SIMILARITIES)} (default: auto, by contrast)")
    parser.add_argument("--device", default="auto", help=f"{', '.join(DEVICES)} (default: auto)")
    parser.add_argument("--spacing", type=float, metavar="MM", help="of the working grid (default: 1, or more)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument("--weights", default="auto", metavar="W", help="a model's name, a file, none, auto (default)")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _add_outputs(parser: argparse.ArgumentParser, transform_required: bool) -> None:
    forms = ".h5, .tfm, or a field .nii.gz, .nrrd, .mha"
    parser.add_argument("--transform", required=transform_required, metavar="T", help=forms)
    inverse = "the inverse: moving points -> fixed points; takes about as long as the rest"
    parser.add_argument("--inverse", metavar="I", help=inverse)
    parser.add_argument("--warped", metavar="W", help="the moving volume on the fixed lattice")
    parser.add_argument("--jacobian", metavar="J", help="the Jacobian determinant on the fixed lattice")
    parser.add_argument("--report", metavar="R", help="all numbers, settings and versions, .json")


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        preset=options.preset,
        contrast=options.contrast,
        similarity=options.similarity,
        device=options.device,
        threads=options.threads,
        weights=options.weights,
        spacing_mm=options.spacing,
        affine=not getattr(options, "aligned", False),
        inverse=bool(getattr(options, "inverse", None) or getattr(options, "with_inverse", False)),
    )


def _given(options: argparse.Namespace, *names: str) -> list[str]:
    return [value for name in names if (value := getattr(options, name, None))]


def _register(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    settings = _settings(options)
    if bool(options.fixed_labels) != bool(options.moving_labels):
        raise SettingsError("Dice needs both label maps; give --fixed-labels and --moving-labels, or neither.")
    targets = _targets(options)
    labels = None
    if options.fixed_labels:
        labels = (
            images.read_labels(options.fixed_labels, "fixed label map"),
            images.read_labels(options.moving_labels, "moving label map"),
        )
        images.shared_labels(*labels)
    names = evaluation.read_label_names(options.label_names) if options.label_names else {}
    registration = register_files(options, settings, progress)
    if labels:
        registration.report["labels"] = evaluation.label_report(*labels, registration.transform)
    written = targets.write(registration)
    print(summary(registration.report))
    if labels:
        print(evaluation.format_table(registration.report["labels"], names))
    print("\n".join(f"written: {path}" for path in written))


def _targets(options: argparse.Namespace) -> outputs.Outputs:
    """The files that `register` and `scene` write from a Registration, as far as they are asked for."""
    targets = outputs.Outputs(inputs=_given(options, *_REGISTER_INPUTS))
    for path, writer, extensions, name in (
        (options.transform, outputs.write_transform, outputs.TRANSFORM_EXTENSIONS, "transform"),
        (options.inverse, outputs.write_inverse, outputs.TRANSFORM_EXTENSIONS, "inverse transform"),
        (options.warped, _writer("warped"), outputs.IMAGE_EXTENSIONS, "warped volume"),
        (options.jacobian, _writer("jacobian"), outputs.IMAGE_EXTENSIONS, "Jacobian"),
        (options.report, lambda r, p: outputs.write_json(r.report, p), (".json",), "report"),
    ):
        if path:
            targets.add(path, writer, extensions, name)
    return targets


def _writer(name: str) -> outputs.Writer:
    """Makes a volume of a registration, writes it and lets go of it: no two of a large pair are held at once."""

    def write(registration: Registration, path: str) -> None:
        outputs.write_image(getattr(registration, name), path)
        vars(registration).pop(name, None)

    return write


_REGISTER_INPUTS = (
    "fixed",
    "moving",
    "fixed_mask",
    "moving_mask",
    "fixed_labels",
    "moving_labels",
    "initial_transform",
    "label_names",
)


def register_files(
    options: argparse.Namespace, settings: Settings, progress: TerminalProgress | None
) -> Registration:
    """`register` on the files that `options` names."""
    fixed = images.read_image(options.fixed, "fixed image")
    moving = images.read_image(options.moving, "moving image")
    return _run(fixed, moving, settings, progress, options)


def _run(fixed: sitk.Image, moving: sitk.Image, settings: Settings, progress, options) -> Registration:
    extra = {}
    if options.fixed_mask:
        extra["fixed_mask"] = images.read_mask(options.fixed_mask, fixed, "fixed mask")
    if options.moving_mask:
        extra["moving_mask"] = images.read_mask(options.moving_mask, moving, "moving mask")
    if options.initial_transform:
        extra["initial_transform"] = images.read_transform(options.initial_transform, "initial transform")
    from .machine import keep_freed_memory, return_freed_memory
    from .registration import register  # brings torch

    keep_freed_memory()
    try:
        return register(fixed, moving, settings, progress, **extra)
    finally:
        return_freed_memory()  # what is written next needs memory of its own, and in other sizes


def summary(report: dict) -> str:
    """The numbers of a report that a person asks for first, and its warnings."""
    similarity, folding, jacobian = report["similarity"], report["folding"], report["jacobian"]
    inverse, seconds = report["inverse_consistency_mm"], report["seconds"]
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items() if stage != "total")
    lines = [
        f"similarity           {similarity['before']:.3f} -> {similarity['after']:.3f} ({similarity['measure']})",
        *_structures_line(report["anatomy"]),
        f"folded voxels        {folding['central_voxels']} central, {folding['strict_voxels']} strict, "
        f"of {folding['evaluated_voxels']}",
        f"Jacobian             {jacobian['min']:.3f} to {jacobian['max']:.2f}, sd of log {jacobian['sd_log']:.3f}",
        f"displacement         mean {report['displacement_mm']['mean']:.2f} mm, "
        f"max {report['displacement_mm']['max']:.2f} mm",
        f"there and back       mean {inverse['mean']:.3f} mm, 99 % below {inverse['p99']:.3f} mm, "
        f"max {inverse['max']:.3f} mm" + (" (inverted point by point)" if inverse["inverse"] == "iteration" else ""),
        f"time                 {spoken(seconds['total'])} on {report['device']['type']} (s: {stages})",
        f"peak memory          {report['peak_memory_mb']['process']:.0f} MB",
    ]
    return "\n".join(lines + [f"warning: {sentence}" for sentence in report["warnings"]])


def _structures_line(anatomy: dict | None) -> list[str]:
    if anatomy is None:
        return []
    return [f"brain structures     {anatomy['before']:.3f} -> {anatomy['after']:.3f} ({anatomy['measure']})"]


def _scene(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    registration, written = register_to_scene(options, _settings(options), progress)
    print(summary(registration.report))
    print("\n".join(f"written: {path}" for path in written))


def register_to_scene(
    options: argparse.Namespace, settings: Settings, progress: TerminalProgress | None
) -> tuple[Registration, list[Path]]:
    """`register` through the nodes of a MRML scene, and the files that were written."""
    try:
        from WaveMorphRegistrationLib.sceneCommand import SceneCommand
    except ImportError as error:
        raise InputError(
            f"The scene needs the package slicer-core ({error}); install it with: pip install 'wavemorph[scene]'."
        ) from error
    bundle = Path(options.output)
    picture = options.picture or bundle.with_suffix(".png")
    with contextlib.closing(SceneCommand()) as command:
        targets = _targets(options)
        targets.add(bundle, lambda _, path: command.writeBundle(path, bundle.stem), (".mrb",), "scene")
        targets.add(picture, lambda _, path: command.writePicture(path), (".png",), "picture")
        for path, name in ((options.fixed, "fixed image"), (options.moving, "moving image")):
            images.read_image(path, name)  # refused here in one sentence; the scene's own readers would log many
        fixed, moving = command.load(options.fixed, options.moving)
        registration = _run(fixed, moving, settings, progress, options)
        command.show(registration, options.with_inverse)
        return registration, targets.write(registration)


def _demo(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    from .demo import run

    run(options, _settings(options), progress)


def _apply(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    targets = outputs.Outputs(inputs=_given(options, "transform", "image", "labels", "points", "reference"))
    if options.points:
        targets.add(options.output, points.write_points, points.POINT_EXTENSIONS, "output")
        listed = points.read_points(options.points)
        transform = images.read_transform(options.transform)
        result = listed.moved_to(points.transform_points(listed.positions, transform))
    else:
        targets.add(options.output, outputs.write_image, outputs.IMAGE_EXTENSIONS, "output")
        if not options.reference:
            raise SettingsError("The output needs a lattice; give the fixed volume as --reference.")
        reference = images.read_image(options.reference, "reference image")
        transform = images.read_transform(options.transform)
        if options.labels:
            result = evaluation.warp_labels(images.read_labels(options.labels), reference, transform)
        else:
            moving = images.read_image(options.image)
            result = warp_image(moving, reference, transform, _INTERPOLATORS[options.interpolation])
    print("\n".join(f"written: {path}" for path in targets.write(result)))


def _evaluate(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    if bool(options.fixed_labels) != bool(options.moving_labels):
        raise SettingsError("Dice needs both label maps; give --fixed-labels and --moving-labels.")
    if bool(options.fixed_points) != bool(options.moving_points):
        raise SettingsError("Landmarks come in pairs of lists; give --fixed-points and --moving-points.")
    if not options.fixed_labels and not options.fixed_points:
        raise SettingsError("There is nothing to evaluate; give two label maps or two point lists.")
    targets = outputs.Outputs(
        inputs=_given(options, "transform", "fixed_labels", "moving_labels", "fixed_points", "moving_points")
    )
    if options.report:
        targets.add(options.report, outputs.write_json, (".json",), "report")
    names = evaluation.read_label_names(options.label_names) if options.label_names else {}
    transform = images.read_transform(options.transform) if options.transform else sitk.Transform()
    report: dict = {}
    if options.fixed_labels:
        fixed = images.read_labels(options.fixed_labels, "fixed label map")
        moving = images.read_labels(options.moving_labels, "moving label map")
        report["labels"] = evaluation.label_report(fixed, moving, transform)
        print(evaluation.format_table(report["labels"], names))
        folding = evaluation.folding(outputs.flattened_field(transform, fixed), fixed != 0)
        report["folding"] = folding
        print(
            f"folded voxels: {folding['central_percent']:.4f} % by central differences, "
            f"{folding['strict_percent']:.4f} % by the strict test; sd of log |J| {folding['sd_log']:.3f}"
        )
    if options.fixed_points:
        pair = [points.read_points(path).positions for path in (options.fixed_points, options.moving_points)]
        errors = evaluation.target_registration_error_mm(transform, *pair)
        report["target_registration_error_mm"] = {"mean": float(errors.mean()), "max": float(errors.max())}
        print(f"landmarks: mean error {errors.mean():.3f} mm, max {errors.max():.3f} mm, {len(errors)} points")
    for path in targets.write(report):
        print(f"written: {path}")


def _models(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    if options.complexity:
        from .network.complexity import main as report_complexity  # brings torch

        report_complexity()
        return
    from .weights import list_models, user_folder

    found = list_models()
    for model in found:
        print(f"{model.name:24} {model.path}\n    {model.description}")
    if not found:
        print(f"No model is installed; put NAME.safetensors with NAME.json into {user_folder()}.")
        print("Without one, the presets Balanced and Precise register by refinement alone.")


if __name__ == "__main__":
    sys.exit(main())
