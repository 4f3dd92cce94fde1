"""Transform files of programs with other conventions: recognized by their content, and refused with what to do.

Their coordinates, directions or units are not those of ITK, and most need both images to be read. No torch.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ...errors import InputError

_HEAD_BYTES = 1 << 16
_MATRIX_ROWS = 4
_NIFTI = (".nii", ".nii.gz")
_AFNI_EXTENSION = 4  # the code of AFNI's header extension in NIfTI files
# the intents of NIfTI files that FSL writes
_FSL_FIELDS = {2006: "FNIRT displacement field", 2018: "topup field"}
_FSL_COEFFICIENTS = {
    2007: "cubic spline coefficients",
    2008: "DCT coefficients",
    2009: "quadratic spline coefficients",
    2016: "topup cubic spline coefficients",
    2017: "topup quadratic spline coefficients",
}
_NIFTYREG_TYPES = {
    0: "deformation field of RAS positions",
    1: "displacement field in RAS mm",
    2: "cubic spline control grid of RAS positions",
    3: "velocity field",
    4: "velocity field",
    5: "velocity control grid",
    6: "linear spline control grid of RAS positions",
}
_NIFTYREG_DISPLACEMENT = 1
_TO_ITK = "wb_command -convert-warpfield"
_AFNI_ADVICE = "apply it with 3dAllineate or 3dNwarpApply, or write it as an ITK transform with nitransforms"
# part of their variance by which vectors may differ from positions; such displacements would double the subject's size
_POSITIONS_BELOW = 0.1


def refuse_foreign_file(path: Path, called: str) -> None:
    """Refuse a transform file of FSL, FreeSurfer, MINC, elastix, AFNI, MATLAB or nitransforms. Raises InputError."""
    name = path.name.lower()
    if name.endswith(".x5"):
        raise InputError(
            f"The {called} is an X5 file of nitransforms, which is not read; write it as an ITK transform "
            "(.h5, .tfm) or a displacement field with nitransforms."
        )
    if name.endswith((".m3z", ".mgz", ".mgh")):
        raise InputError(
            f"The {called} is a morph of FreeSurfer, which is not read; convert it with mri_warp_convert --inm3z "
            f"{path.name} --outitk warp.nii.gz."
        )
    if name.endswith((".head", ".brik", ".brik.gz")):
        raise InputError(f"The {called} is a dataset of AFNI, which is not read; {_AFNI_ADVICE}.")
    text = _head(path)
    for recognized, sentence in _TEXTS:
        if recognized(text, name):
            raise InputError(f"The {called} is {sentence.format(file=path.name)}.")


def refuse_foreign_field(reader: sitk.ImageFileReader, path: Path, called: str) -> None:
    """Refuse a NIfTI file of FSL, NiftyReg, SPM or AFNI by what its header says. Raises InputError."""
    if not path.name.lower().endswith(_NIFTI) or not reader.HasMetaDataKey("intent_code"):
        return
    intent = int(float(reader.GetMetaData("intent_code")))
    name = reader.GetMetaData("intent_name").strip() if reader.HasMetaDataKey("intent_name") else ""
    if name.upper().startswith("NREG"):
        number = int(float(reader.GetMetaData("intent_p1")))
        first = (
            "" if number == _NIFTYREG_DISPLACEMENT else "make a displacement field of it with reg_transform -disp, and "
        )
        raise InputError(
            f"The {called} is a NiftyReg {_NIFTYREG_TYPES.get(number, 'transform')} ({name}), not a displacement in "
            f"LPS mm; {first}convert it with {_TO_ITK} -from-world ... -to-itk."
        )
    if name.lower() == "mapping":
        raise InputError(
            f"The {called} is a deformation of SPM, which holds RAS positions rather than displacements in LPS mm; "
            "subtract the position of each voxel, and negate x and y."
        )
    if intent in _FSL_COEFFICIENTS:
        raise InputError(
            f"The {called} holds {_FSL_COEFFICIENTS[intent]} of FSL (intent {intent}); make a field of them with "
            f"fnirtfileutils --in={path.name} --ref=FIXED --withaff --out=field, and convert that with {_TO_ITK} "
            "-from-fnirt ... -to-itk."
        )
    if intent in _FSL_FIELDS:
        raise InputError(
            f"The {called} is an FSL {_FSL_FIELDS[intent]} (intent {intent}), in scaled voxels rather than LPS mm; "
            f"convert it with {_TO_ITK} -from-fnirt ... -to-itk."
        )
    if _AFNI_EXTENSION in _extension_codes(path):
        raise InputError(f"The {called} is a warp of AFNI, which is not read; {_AFNI_ADVICE}.")


def refuse_positions(field: sitk.Image, called: str) -> None:
    """Refuse a vector image that holds where each voxel goes, in LPS or RAS, instead of how far. Raises InputError."""
    vectors = sitk.GetArrayViewFromImage(field)
    step = tuple(max(1, n // 16) for n in vectors.shape[:3])
    nodes = np.stack(np.meshgrid(*[np.arange(0, n, s) for n, s in zip(vectors.shape, step)], indexing="ij"), -1)
    axes = np.reshape(field.GetDirection(), (3, 3)) * np.array(field.GetSpacing())
    positions = nodes.reshape(-1, 3)[:, ::-1] @ axes.T + np.array(field.GetOrigin())
    sampled = vectors[:: step[0], :: step[1], :: step[2]].reshape(-1, 3).astype(float)
    spread = sampled.var(axis=0).sum()
    for system, signs in (("LPS", (1, 1, 1)), ("RAS", (-1, -1, 1))):
        if spread > 0 and (sampled - positions * signs).var(axis=0).sum() < _POSITIONS_BELOW * spread:
            raise InputError(
                f"The {called} holds the {system} position to which each voxel goes rather than its displacement; "
                "subtract the position of the voxel, and write displacements in LPS mm."
            )


def _head(path: Path) -> str:
    """The beginning of the file as text, decompressed where it is gzipped; bytes that are no text stay characters."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_HEAD_BYTES)
        if content.startswith(b"\x1f\x8b"):
            with gzip.open(path) as unzipped:
                content = unzipped.read(_HEAD_BYTES)
    except (OSError, EOFError, zlib.error):
        return ""
    return content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "latin-1", "replace")


def _matrix_shape(text: str) -> tuple[int, int] | None:
    """(rows, columns) of a text of numbers only, comments left out; None for any other text."""
    rows = [
        line.replace(",", " ").split() for line in text.splitlines() if line.strip() and line.strip()[0] not in "#%"
    ]
    try:
        widths = {len([float(cell) for cell in row]) for row in rows}
    except ValueError:
        return None
    return (len(rows), widths.pop()) if len(widths) == 1 else None


def _is_afni(text: str, name: str) -> bool:
    return name.endswith(".1d") or "3dAllineate" in text or (_matrix_shape(text) or (0, 0))[1] == 12


def _is_square_matrix(text: str, _: str) -> bool:
    return _matrix_shape(text) in ((_MATRIX_ROWS, 4), (3, 4))


_TEXTS: tuple[tuple[Callable[[str, str], bool], str], ...] = (
    (
        lambda text, _: re.search(r'^\s*\(Transform\s+"', text, re.MULTILINE) is not None,
        "a parameter file of elastix, which is not read; make a displacement field of it with transformix -def all "
        "-tp {file} -out FOLDER, and give deformationField",
    ),
    (
        lambda text, _: re.search(r"^\s*nxforms\s*=", text, re.MULTILINE) is not None,
        "an LTA file of FreeSurfer, which is not read; convert it with lta_convert --inlta {file} --outitk itk.txt",
    ),
    (
        lambda text, _: text.startswith("MNI Transform File"),
        "a transform of MINC (.xfm) in RAS mm, which is not read, because ITK takes it for LPS; convert it with "
        "lta_convert --inmni {file} --src MOVING --trg FIXED --outitk itk.txt",
    ),
    (
        _is_afni,
        "an affine of AFNI (.aff12.1D), which is not read; " + _AFNI_ADVICE,
    ),
    (
        lambda text, name: name.endswith(".dat") and re.search(r"^(round|tkregister)", text, re.MULTILINE) is not None,
        "a register.dat of FreeSurfer, which is not read; convert it with lta_convert --inreg {file} --src MOVING "
        "--trg FIXED --outitk itk.txt",
    ),
    (
        _is_square_matrix,
        "a bare matrix, as FSL FLIRT, NiftyReg and greedy write it, which does not say its coordinates; for FLIRT, "
        "convert it with c3d_affine_tool -ref FIXED -src MOVING {file} -fsl2ras -oitk itk.txt, for the "
        "others, whose matrix is in RAS mm, with c3d_affine_tool {file} -oitk itk.txt",
    ),
    (
        lambda text, _: text.startswith("MATLAB 5.0 MAT-file"),
        "a MATLAB file, as SPM writes it, which is not read; write an ITK transform (.h5, .tfm)",
    ),
)


def _extension_codes(path: Path) -> list[int]:
    """The codes of the extensions in the header of a NIfTI file."""
    with contextlib.suppress(OSError, EOFError, zlib.error, struct.error):
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            content = stream.read(_HEAD_BYTES)
        order = next((mark for mark in "<>" if struct.unpack_from(mark + "i", content)[0] in (348, 540)), None)
        if order is None:
            return []
        place = struct.unpack_from(order + "i", content)[0]
        if not content[place]:
            return []
        codes, place = [], place + 4
        end = int(struct.unpack_from(order + ("f" if place == 352 else "q"), content, 108 if place == 352 else 168)[0])
        while place + 8 <= min(end, len(content)):
            size, code = struct.unpack_from(order + "2i", content, place)
            codes.append(code)
            place += max(size, 8)
        return codes
    return []
