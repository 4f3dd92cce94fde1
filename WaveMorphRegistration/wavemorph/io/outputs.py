"""Write output files, all of them or none: paths are checked before the work, files put in place after it.

Does not import torch: Slicer's own process uses it. Transforms are in LPS mm and map fixed points to moving points.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from ..errors import OutOfMemoryError, OutputError, is_out_of_memory
from ..system.private_folders import lock_folder, private_folder, remove_abandoned_folders, unlock
from ..system.process import uninterrupted
from .fields import (
    field_image,
    field_lattice,
    flattened_field,
    inverse_lattice,
    registration_field,
    rounded_field,
    rounded_inverse_field,
    write_nifti_field,
)
from .files import quiet_itk, quiet_libraries, short_reason, stored_length
from .labels import LabelMap
from .result import Registration

__all__ = [
    "IMAGE_EXTENSIONS",
    "REGISTRATION_OUTPUTS",
    "TRANSFORM_EXTENSIONS",
    "Outputs",
    "field_lattice",
    "flattened_field",
    "holds_names",
    "write_field",
    "write_image",
    "write_inverse",
    "write_json",
    "write_label_map",
    "write_transform",
]
IMAGE_EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha")
TRANSFORM_EXTENSIONS = (".h5", ".tfm", ".txt", *IMAGE_EXTENSIONS)
_NIFTI_HEADER = 352
_STEM, _PREVIOUS = "output", "previous"  # names in a private folder
_LOCK_SECONDS = 30.0

Writer = Callable[[Any, str], None]


class Outputs:
    """The files that a command will write.

    `add` checks a path before the work starts; `write` writes the files after it. Each is first written into a private
    folder beside its place, and renamed when all are complete. If one fails, none is left, and previous files are
    restored. Of two processes that write into one folder, one puts all its files in place after the other. What a
    process that was killed has left there is removed by the next one.

    Examples:
        >>> outputs = Outputs(inputs=["fixed.nii.gz", "moving.nii.gz"])
        >>> outputs.add("map.h5", write_transform, TRANSFORM_EXTENSIONS, "transform")
        >>> outputs.write(wavemorph.register("fixed.nii.gz", "moving.nii.gz"))
    """

    files_written = 0  # by this process, in place

    def __init__(self, inputs: Iterable[str | os.PathLike] = ()):
        self._inputs = [Path(path) for path in inputs]
        self._targets: list[tuple[Path, Writer, str, str]] = []

    def add(self, path: str | os.PathLike, writer: Writer, extensions: Iterable[str], name: str = "output") -> None:
        """Check a path, and keep it for `write`.

        Parameters:
            path: the file. A missing folder is created by `write`; a symbolic link is kept, and its target is written.
            writer: called as writer(result, path); writes the file.
            extensions: `path` must end in one of them.
            name: what messages call it.

        Raises:
            OutputError: the file cannot be written, would overwrite an input, or is already among the outputs.
        """
        extension = _extension(path, extensions, name)
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise OutputError(f'The {name} "{path}" is a folder; give the name of a file in it.')
        for source in self._inputs:
            if _same_file(target, source):
                raise OutputError(f'The {name} "{path}" would overwrite the input "{source}"; choose another name.')
        for other, _, _, other_name in self._targets:
            if _same_file(target, other):
                raise OutputError(f'"{path}" is given for both the {other_name} and the {name}; choose two names.')
        if target.exists() and not os.access(target, os.W_OK):
            raise OutputError(f'The {name} "{path}" is write-protected; choose another name.')
        _check_folder(target.parent, f'The {name} "{path}"')
        self._targets.append((target, writer, extension, name))

    def write(self, result: Any = None) -> list[Path]:
        """Write every file from `result`, and return the paths. Raises OutputError; then no file has changed."""
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as temporary, quiet_itk():
            complete = [self._write_temporary(result, *target, temporary, undo) for target in self._targets]
            with _locked(target.parent for target, _, _, _ in self._targets), uninterrupted():
                self._put_all_in_place(complete)
                undo.pop_all()
        return [target for target, _, _, _ in self._targets]

    @staticmethod
    def _write_temporary(
        result: Any,
        target: Path,
        writer: Writer,
        extension: str,
        name: str,
        temporary: contextlib.ExitStack,
        undo: contextlib.ExitStack,
    ) -> Path:
        """Write one file into a private folder, which `temporary` removes; `undo` removes new folders above it."""
        failed = f'The {name} "{target}" could not be written'
        path = target
        try:
            _make_folder(target.parent, undo)
            path = temporary.enter_context(private_folder(target.parent)) / f"{_STEM}{extension}"
            writer(result, str(path))
        except OutputError as error:
            raise OutputError(str(error).replace(str(path), str(target))) from error
        except (OSError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise OutOfMemoryError(f"{failed}: memory ran out; close other programs.") from error
            raise OutputError(f"{failed}: {short_reason(error)}; is the disk full?") from error
        if not path.is_file() or path.stat().st_size == 0:
            raise OutputError(f"{failed}: the file is missing or empty; is the disk full?")
        return path

    def _put_all_in_place(self, complete: list[Path]) -> None:
        """Rename the complete files to their targets; previous files are kept beside them until their folders go.

        Whenever the process is killed, the targets that exist are all previous ones or all new ones: of the previous
        ones only the first is there when it is replaced.
        """
        with contextlib.ExitStack() as undo:
            moves = [(temporary, target, name) for temporary, (target, _, _, name) in zip(complete, self._targets)]
            for temporary, target, name in moves:
                with _placing(target, name):
                    undo.callback(_restore, _keep(target, temporary.parent), target)
            for _, target, name in moves[1:]:
                with _placing(target, name):
                    target.unlink(missing_ok=True)
            for temporary, target, name in moves:
                with _placing(target, name):
                    os.replace(temporary, target)
            undo.pop_all()
        Outputs.files_written += len(complete)


@contextlib.contextmanager
def _placing(target: Path, name: str) -> Iterator[None]:
    """An error of the system as an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f'The {name} "{target}" could not be put in place: {short_reason(error)}; is it open in another program?'
        ) from error


def write_image(image: sitk.Image, path: str | os.PathLike) -> None:
    """Write a volume, compressed, as .nii.gz, .nii, .nrrd or .mha. Raises OutputError where it is not complete."""
    extension = _extension(path, IMAGE_EXTENSIONS, "image")
    _write(sitk.WriteImage, image, path, useCompression=True)
    if extension.startswith(".nii"):  # ITK reports no error when the disk is full
        needed = _NIFTI_HEADER + sitk.GetArrayViewFromImage(image).nbytes
        try:
            whole = stored_length(Path(path)) >= needed
        except (EOFError, OSError):
            whole = False
        if not whole:
            raise OutputError(f'"{path}" was not written completely; is the disk full?')


def write_label_map(labels: LabelMap, path: str | os.PathLike) -> None:
    """Write a label map as .nrrd with Slicer's keys (Slicer opens .seg.nrrd as a segmentation), or without names.

    Raises:
        OutputError: the file cannot be written, or its format cannot hold overlapping segments.
    """
    if len(labels.layers) > 1 and not holds_names(path):
        raise OutputError(
            f'The overlapping segments in {len(labels.layers)} layers cannot be written as "{path}"; write .seg.nrrd.'
        )
    write_image(labels.image(), path)


def holds_names(path: str | os.PathLike) -> bool:
    """Whether a file of this name can hold the names of structures."""
    return str(path).lower().endswith(".nrrd")


def write_transform(
    transform: Registration | sitk.Transform, path: str | os.PathLike, lattice: sitk.Image | None = None
) -> None:
    """Write a transform, fixed points -> moving points, LPS mm.

    A displacement field is a vector image, rounded so that it compresses (`transforms.rounding`). Its vectors are LPS
    mm, as ITK, ANTs and Slicer read them; a NIfTI file holds RAS mm with the intent "displacement vector" (1006), which
    these programs convert (`fields.write_nifti_field`). A transform file is exact everywhere, a field on its lattice.

    Parameters:
        transform: a Registration, or any 3D SimpleITK transform.
        path: .h5, .tfm or .txt for an ITK transform file; .nii.gz, .nii, .nrrd or .mha for a displacement field.
        lattice: the voxels of a displacement field; by default `field_lattice` of a Registration.

    Raises:
        OutputError: the file cannot be written, or a field has no lattice.
    """
    extension = _extension(path, TRANSFORM_EXTENSIONS, "transform")
    if isinstance(transform, Registration):
        if extension in IMAGE_EXTENSIONS and lattice is None:
            write_field(registration_field(transform), path)
        else:
            _write_transform(transform.transform, path, extension, lattice)
    else:
        _write_transform(transform, path, extension, lattice, nested=True)


def write_inverse(registration: Registration, path: str | os.PathLike) -> None:
    """Write the inverse, moving points -> fixed points, LPS mm, in the formats of `write_transform`.

    A displacement field covers the moving image. Raises OutputError.
    """
    extension = _extension(path, TRANSFORM_EXTENSIONS, "inverse transform")
    is_field = extension in IMAGE_EXTENSIONS
    field = rounded_inverse_field(registration) if is_field and not registration.is_linear else None
    if field is not None:
        write_field(field_image(*field), path)
        return
    _write_transform(registration.inverse, path, extension, inverse_lattice(registration) if is_field else None)


def write_field(field: sitk.Image, path: str | os.PathLike) -> None:
    """Write a displacement field, a vector image of LPS mm, rounded already. Raises OutputError."""
    if not _extension(path, IMAGE_EXTENSIONS, "displacement field").startswith(".nii"):
        write_image(field, path)
        return
    try:
        write_nifti_field(field, path)
    except OSError as error:
        raise OutputError(f'"{path}" could not be written: {short_reason(error)}; is the disk full?') from error


def write_json(content: Any, path: str | os.PathLike) -> None:
    """Write numbers and text as indented JSON in UTF-8. Raises OSError."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def _volume_writer(name: str) -> Writer:
    """A writer that computes a volume, writes it and releases it, so that only one is in memory at a time."""

    def write(registration: Registration, path: str) -> None:
        write_image(getattr(registration, name), path)
        vars(registration).pop(name, None)

    return write


def _write_expected_error(registration: Registration, path: str) -> None:
    """It is not released: it cannot be made again."""
    assert registration.expected_error is not None, "`Settings.error_map` was set"
    write_image(registration.expected_error, path)


def _write_report(registration: Registration, path: str) -> None:
    write_json(registration.report, path)


# what can be written of a Registration: the writer, its extensions, and what messages call it
REGISTRATION_OUTPUTS: Mapping[str, tuple[Writer, tuple[str, ...], str]] = {
    "transform": (write_transform, TRANSFORM_EXTENSIONS, "transform"),
    "inverse": (write_inverse, TRANSFORM_EXTENSIONS, "inverse transform"),
    "warped": (_volume_writer("warped"), IMAGE_EXTENSIONS, "warped volume"),
    "jacobian": (_volume_writer("jacobian"), IMAGE_EXTENSIONS, "Jacobian"),
    "error_map": (_write_expected_error, IMAGE_EXTENSIONS, "expected error"),
    "report": (_write_report, (".json",), "report"),
}
USUAL_NAMES: Mapping[str, str] = {  # of their files, where a command writes them into a folder
    "transform": "fixed_to_moving.h5",
    "inverse": "moving_to_fixed.h5",
    "warped": "registered.nii.gz",
    "jacobian": "jacobian.nii.gz",
    "error_map": "expected_error.nii.gz",
    "report": "report.json",
}


def _write_transform(
    transform: sitk.Transform, path: str | os.PathLike, extension: str, lattice: sitk.Image | None, nested: bool = False
) -> None:
    """See `write_transform`. nested: flatten composites inside a composite, which ITK's files cannot hold.

    Flattening copies every part, and a field in a transform is large: float64, 24 bytes a voxel.
    """
    if extension in IMAGE_EXTENSIONS:
        if lattice is None:
            raise OutputError(f'A displacement field "{path}" needs a lattice; write .h5, or give a lattice.')
        field = flattened_field(transform, lattice)
        write_field(field if transform.IsLinear() else rounded_field(field), path)
        return
    transform, parts = transform.Downcast(), 1
    if isinstance(transform, sitk.CompositeTransform):
        if nested:
            transform = sitk.CompositeTransform(transform)
            transform.FlattenTransform()
        parts = transform.GetNumberOfTransforms()
    _write(sitk.WriteTransform, transform, path)
    if extension != ".h5":  # ITK reports no error when the disk is full
        text = Path(path).read_bytes()
        if not text.endswith(b"\n") or text.count(b"FixedParameters:") < parts:
            raise OutputError(f'"{path}" was not written completely; is the disk full?')


def _write(write: Callable, content: Any, path: str | os.PathLike, **options: bool) -> None:
    try:
        with quiet_itk(), quiet_libraries():
            write(content, str(path), **options)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise OutputError(f'"{path}" could not be written: {short_reason(error)}; is the disk full?') from error


def _extension(path: str | os.PathLike, extensions: Iterable[str], name: str) -> str:
    """The longest of `extensions` that the path ends in. Raises OutputError where it ends in none."""
    extensions = tuple(extensions)
    lower = Path(path).name.lower()
    found = [extension for extension in extensions if lower.endswith(extension) and lower != extension]
    if not found:
        raise OutputError(f'The {name} "{path}" must end in one of {", ".join(extensions)}.')
    return max(found, key=len)


def _same_file(first: Path, second: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(first, second)
    return os.path.normcase(os.path.realpath(first)) == os.path.normcase(os.path.realpath(second))


def _check_folder(folder: Path, what: str) -> None:
    """Check that a file can be created in `folder`, or in its nearest parent that exists; the test file is removed.

    What processes that were killed have left in it is removed too: it may have filled the disk.
    """
    while not folder.exists():
        folder = folder.parent
    remove_abandoned_folders(folder)
    if not folder.is_dir():
        raise OutputError(f'{what} cannot be written: "{folder}" is a file, not a folder.')
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f'{what} cannot be written: no file can be made in "{folder}" ({short_reason(error)}); choose another '
            "folder."
        ) from error


def _make_folder(folder: Path, undo: contextlib.ExitStack) -> None:
    """Create the folder and its missing parents; `undo` removes them again, innermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        undo.callback(_remove_folder, new)
        new.mkdir(exist_ok=True)  # another process may write into the same folder


@contextlib.contextmanager
def _locked(folders: Iterable[Path]) -> Iterator[None]:
    """Within the context no other process puts files in place in these folders. Raises OutputError."""
    with contextlib.ExitStack() as stack:
        for folder in sorted(set(folders)):  # in one order, so that two processes do not wait for each other
            try:
                stack.callback(unlock, lock_folder(folder, _LOCK_SECONDS))
            except BlockingIOError as error:
                raise OutputError(
                    f'Another process has been writing into "{folder}" for more than {_LOCK_SECONDS:.0f} s; end it, or '
                    "choose another folder."
                ) from error
        yield


def _keep(target: Path, folder: Path) -> Path | None:
    """Keep the file, if there is one, in `folder` too; only there where the file system has no hard links."""
    if not target.exists():
        return None
    backup = folder / _PREVIOUS
    try:
        os.link(target, backup)
    except OSError:
        os.replace(target, backup)
    return backup


def _restore(backup: Path | None, target: Path) -> None:
    """Put the previous file in place again, or nothing where there was none."""
    if backup is None:
        _remove(target)
    else:
        with contextlib.suppress(OSError):
            os.replace(backup, target)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _remove_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
