"""An image file of a rare format decoded into a plain NRRD file, within limits: what the process of `isolation` does.

The C++ libraries of TIFF, PNG, JPEG, BMP, MINC, HDF5, VTK, GIPL and MRC can end a process, or spoil its memory.

    python -m wavemorph.io.formats.decoding FILE TARGET CALLED
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from ...errors import InputError, WaveMorphError
from ..files import load_image, open_image, refuse_lack_of_memory, short_reason
from .isolation import REFUSAL

resource: Any
try:
    import resource
except ImportError:  # Windows
    resource = None

_HEADER_BYTES, _HEADER_SECONDS = 1 << 30, 10  # what the header alone may take, beyond what the process has
_COPIES = 3  # of the voxels that are held at once
_BYTES_A_SECOND = 10e6  # at least, of decoded voxels
_VOXEL_BYTES = 8  # at most, of one component


def decode(file: Path, target: Path, called: str) -> int:
    """Write the image of a file as NRRD; returns 0, or the exit code of an error whose sentence is in `REFUSAL`."""
    try:
        try:
            _decode(file, target, called)
        except (MemoryError, RuntimeError) as error:
            refuse_lack_of_memory(error, called)
            raise InputError(f"The {called} cannot be read ({short_reason(error)}); write it again.") from error
    except WaveMorphError as error:
        target.with_name(REFUSAL).write_text(str(error), encoding="utf-8")
        return error.exit_code
    return 0


def _decode(file: Path, target: Path, called: str) -> None:
    _limit(_HEADER_BYTES, _HEADER_SECONDS)
    reader = open_image(file, called)
    voxels = math.prod(reader.GetSize()) * reader.GetNumberOfComponents() * _VOXEL_BYTES
    _limit(_HEADER_BYTES + _COPIES * voxels, _HEADER_SECONDS + math.ceil(voxels / _BYTES_A_SECOND))
    if voxels < 1:
        raise InputError(f"The {called} holds no voxels; write it again.")
    image = load_image(reader, called)
    for key in image.GetMetaDataKeys():  # of the other format: they would be taken for those of NRRD
        image.EraseMetaData(key)
    sitk.WriteImage(image, str(target))


def _limit(more_bytes: int, seconds: int) -> None:
    """Limit the memory to `more_bytes` beyond what is in use, and the processor time; as far as the system can."""
    if resource is None:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = math.ceil(usage.ru_utime + usage.ru_stime)
    _lower(resource.RLIMIT_CPU, used + seconds)
    status = Path("/proc/self/statm")
    if status.exists():
        _lower(resource.RLIMIT_AS, int(status.read_text().split()[0]) * resource.getpagesize() + more_bytes)


def _lower(what: int, wanted: int) -> None:
    """Set a limit that may be changed later, not above the one that the process was given."""
    most = resource.getrlimit(what)[1]
    resource.setrlimit(what, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


if __name__ == "__main__":
    sys.exit(decode(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
