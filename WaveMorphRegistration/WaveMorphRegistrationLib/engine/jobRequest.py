"""The input of one registration job, copied from the scene, and the files in which the worker process reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import SimpleITK as sitk


@dataclass
class JobRequest:
    """Images and transform in LPS mm and the settings of the engine; `context` is returned with the result."""

    fixed: sitk.Image
    moving: sitk.Image
    settings: dict[str, Any] = field(default_factory=dict)
    fixedMask: sitk.Image | None = None
    movingMask: sitk.Image | None = None
    initialTransform: sitk.Transform | None = None
    context: Any = None

    def write(self, folder: Path) -> None:
        """Write every input that exists into the folder. Raises RuntimeError where SimpleITK cannot write."""
        for name, image in (
            ("fixed", self.fixed),
            ("moving", self.moving),
            ("fixed_mask", self.fixedMask),
            ("moving_mask", self.movingMask),
        ):
            if image is not None:
                sitk.WriteImage(image, str(folder / f"{name}.nrrd"), False)
        if self.initialTransform is not None:
            sitk.WriteTransform(self.initialTransform, str(folder / "initial_transform.h5"))
