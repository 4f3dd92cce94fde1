"""WaveMorph: deformable registration of medical volumes (the engine; needs numpy, SimpleITK, torch, safetensors).

Importing this package imports neither torch nor SimpleITK: they are imported by the first call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import InputError, WaveMorphError
from .settings import Settings
from .system.version import __version__

if TYPE_CHECKING:
    import SimpleITK as sitk

    from .io.result import Registration
    from .io.volumes import Volume, VolumeLike

__all__ = ["Registration", "Settings", "Volume", "WaveMorphError", "__version__", "register", "register_many"]
_ARGUMENTS = ("fixed", "moving", "fixed_mask", "moving_mask", "initial_transform")  # of a pair


def register(
    fixed: VolumeLike,
    moving: VolumeLike,
    settings: Settings | None = None,
    progress: Callable[[str, float, str], None] | None = None,
    *,
    fixed_mask: VolumeLike | None = None,
    moving_mask: VolumeLike | None = None,
    initial_transform: str | os.PathLike | sitk.Transform | None = None,
) -> Registration:
    """Register `moving` to `fixed`. The inputs are not changed.

    All errors are subclasses of `WaveMorphError`, with one sentence: what is wrong, the values found, and what to do.

    Parameters:
        fixed: the volume that stays: a path, a SimpleITK image or a `Volume` (an array with its spacing in mm).
            3D and scalar, of any geometry, pixel type and spacing.
        moving: the volume that is aligned to it, in the same forms.
        settings: see `Settings`; by default the preset "Balanced" on the best device.
        progress: called as progress(stage, fraction, message) with 0 <= fraction <= 1. It may raise
            `errors.Cancelled` to cancel the registration.
        fixed_mask: only voxels of the fixed volume where it is not 0 are compared.
        moving_mask: only voxels of the moving volume where it is not 0 are compared.
        initial_transform: fixed points -> moving points in LPS mm, a path or a SimpleITK transform. The affine stage
            starts from a linear one. A non-linear one is kept, and the deformation is added to it; with the transform
            types "rigid" and "affine" it is refused.

    Returns:
        Transforms in LPS mm, volumes on the lattice of the fixed volume, and a report.

    Raises:
        InputError: a volume, mask or transform cannot be used.
        SettingsError: a setting is unknown or out of range, or settings contradict each other.
        DeviceError: the device is not available.
        WeightsError: the model is missing or damaged.
        OutOfMemoryError: memory does not suffice even for a coarse working grid.

    Reference:
        Zhang et al., Bioengineering 2025, 12(4), 406, for the network. The optimizer, the inverse and the removal of
        folds are ours (ARCHITECTURE.md).

    Examples:
        >>> import wavemorph
        >>> result = wavemorph.register("fixed.nii.gz", "moving.nii.gz")
        >>> labels_on_fixed = result.warp("moving_labels.nii.gz", labels=True)
        >>> print(result.report["folding"], result.report["warnings"])
    """
    from .system.process import set_passive_wait

    set_passive_wait()  # before torch is imported
    from .io.volumes import as_mask, as_transform, as_volume
    from .registration.pipeline import register as run

    fixed_volume, moving_volume = as_volume(fixed, "fixed image"), as_volume(moving, "moving image")
    fixed_image, moving_image = fixed_volume.image, moving_volume.image
    return run(
        fixed_image,
        moving_image,
        settings,
        progress,
        fixed_mask=None if fixed_mask is None else as_mask(fixed_mask, fixed_image, "fixed mask"),
        moving_mask=None if moving_mask is None else as_mask(moving_mask, moving_image, "moving mask"),
        initial_transform=None if initial_transform is None else as_transform(initial_transform, "initial transform"),
        notes=(*fixed_volume.remarks, *moving_volume.remarks),
    )


def register_many(
    pairs: Iterable[tuple[VolumeLike, VolumeLike] | Mapping[str, Any]],
    settings: Settings | None = None,
    progress: Callable[[int, str, float, str], None] | None = None,
    *,
    at_once: int | None = None,
) -> list[Registration | Exception]:
    """Register several pairs. A GPU works on several of them at once, a CPU on one after another.

    A pair that fails does not stop the others: its error stands in place of its result.

    Parameters:
        pairs: each (fixed, moving), or a dictionary of the arguments of `register` ("fixed", "moving", "fixed_mask",
            "moving_mask", "initial_transform").
        settings: for all pairs. The memory of the device is shared among the pairs at once.
        progress: called as progress(number of the pair, stage, fraction, message), one call at a time. It may raise
            `errors.Cancelled`, which ends all pairs and is raised here.
        at_once: pairs at a time; None for as many as fit on a GPU (four at most), and one on a CPU.

    Returns:
        For each pair, in their order, its `Registration`, or the exception that ended it; a `WaveMorphError` where it
        was an expected one. "peak_memory_mb" in a report is that of all pairs at once.

    Raises:
        InputError: a pair is neither of two volumes nor a dictionary of known arguments.
        SettingsError, DeviceError: see `register`.

    Examples:
        >>> import wavemorph
        >>> results = wavemorph.register_many([("a.nii.gz", "atlas.nii.gz"), ("b.nii.gz", "atlas.nii.gz")])
        >>> print([result for result in results if isinstance(result, Exception)])
    """
    from .system.process import set_passive_wait

    set_passive_wait()  # before torch is imported
    from .registration.many import register_many as run

    chosen = [_arguments_of(number, pair) for number, pair in enumerate(pairs, 1)]
    return run(register, chosen, settings or Settings(), progress or (lambda *report: None), at_once)


def _arguments_of(number: int, pair: Any) -> Mapping[str, Any]:
    """The arguments of `register` for a pair of `register_many`. number: of the pair, from 1. Raises InputError."""
    if isinstance(pair, Mapping):
        unknown = sorted(set(map(str, pair)) - set(_ARGUMENTS))
        missing = [name for name in _ARGUMENTS[:2] if name not in pair]
        if unknown or missing:
            wrong = f"the unknown argument {unknown[0]!r}" if unknown else f"no {missing[0]!r}"
            raise InputError(f"Pair {number} has {wrong}; its arguments may be {', '.join(_ARGUMENTS)}.")
        return pair
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise InputError(
            f"Pair {number} must be (fixed, moving) or a dictionary of arguments, not {type(pair).__name__}"
            f"{f' of {len(pair)}' if isinstance(pair, (tuple, list)) else ''}."
        )
    return {"fixed": pair[0], "moving": pair[1]}


def __getattr__(name: str) -> type:
    if name == "Registration":
        from .io.result import Registration

        return Registration
    if name == "Volume":
        from .io.volumes import Volume

        return Volume
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
