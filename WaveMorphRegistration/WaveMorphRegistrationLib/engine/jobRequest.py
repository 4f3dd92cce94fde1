"""The input of one registration job, copied from the scene, and the files in which the worker process reads it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from wavemorph.errors import OutputError
from wavemorph.io.files import quiet_itk, short_reason

from ..translation import _

_BYTES_A_VOXEL_OF_RESULT = 64  # of the larger volume: displacement, field, inverse, registered volume, maps
_MEGABYTE = 1e6


@dataclass
class JobRequest:
    """Images and transform in LPS mm and the settings of the engine; `context` is returned with the result.

    outputs: which of "warped", "jacobian", "expected_error", "field" (the whole map as one displacement field) and
        "inverse" are wanted; None for the whole result.
    storeSpacingMm: of the transforms; None for that of the working grid.
    """

    fixed: sitk.Image
    moving: sitk.Image
    settings: dict[str, Any] = field(default_factory=dict)
    fixedMask: sitk.Image | None = None
    movingMask: sitk.Image | None = None
    initialTransform: sitk.Transform | None = None
    context: Any = None
    outputs: tuple[str, ...] | None = None
    storeSpacingMm: float | None = None

    def write(self, folder: Path) -> None:
        """Write every input that exists into the folder. Raises OutputError, also where the result would not fit."""
        self._checkSpace(folder)
        try:
            with quiet_itk():
                self._writeFiles(folder)
        except (OSError, RuntimeError) as error:
            raise OutputError(
                _('The volumes could not be copied to the temporary folder "{folder}" ({reason}). {advice}').format(
                    folder=folder.parent, reason=short_reason(error), advice=_spaceAdvice()
                )
            ) from error

    def _checkSpace(self, folder: Path) -> None:
        images = [image for image in (self.fixed, self.moving, self.fixedMask, self.movingMask) if image is not None]
        inputs = sum(
            image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent()
            for image in images
        )
        result = _BYTES_A_VOXEL_OF_RESULT * max(self.fixed.GetNumberOfPixels(), self.moving.GetNumberOfPixels())
        free = shutil.disk_usage(folder).free
        if free < inputs + result:
            raise OutputError(
                _(
                    'The temporary folder "{folder}" has {free:.0f} MB of free space, and this registration needs '
                    "about {needed:.0f} MB. {advice}"
                ).format(
                    folder=folder.parent,
                    free=free / _MEGABYTE,
                    needed=(inputs + result) / _MEGABYTE,
                    advice=_spaceAdvice(),
                )
            )

    def _writeFiles(self, folder: Path) -> None:
        for name, image in (
            ("fixed", self.fixed),
            ("moving", self.moving),
            ("fixed_mask", self.fixedMask),
            ("moving_mask", self.movingMask),
        ):
            if image is not None:
                sitk.WriteImage(_withoutMetaData(image), str(folder / f"{name}.nrrd"), False)
        if self.initialTransform is not None:
            sitk.WriteTransform(self.initialTransform, str(folder / "initial_transform.h5"))


def _withoutMetaData(image: sitk.Image) -> sitk.Image:
    """The image without the entries of its file's header, which may name a patient."""
    keys = image.GetMetaDataKeys()
    if keys:
        image = sitk.Image(image)
        for key in keys:
            image.EraseMetaData(key)
    return image


def _spaceAdvice() -> str:
    return _("Free some space, or choose another temporary folder in the application settings.")
