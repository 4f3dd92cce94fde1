"""Labels of the structures of `network/segmentation.py` on the MNI template, by watersheds from markers (ours).

nilearn's MNI ICBM152 template has maps of gray and white matter, but no labels of structures. Each structure is a
watershed basin of the T1 image's gradient, from markers: balls at MNI coordinates as found in any brain atlas.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from scipy import ndimage

from ..errors import InputError
from ..network.segmentation import STRUCTURES
from ..spatial.grid import tensor_from_array

_CODE = {name: code for code, name in enumerate(STRUCTURES)}
_FAR_MM = 80  # distances are computed up to here outside the template
# (x, y, z, radius) in mm, on both sides
_CEREBRUM = (
    (38, -20, -28, 5), (25, -80, -4, 4), (38, 5, -34, 6), (20, -50, 2, 3), (12, -90, -6, 4), (30, -72, -10, 3),
    (24, -30, -20, 3), (20, -60, -4, 3), (28, -45, -12, 3), (42, -55, -18, 4), (48, -30, -26, 4),
)  # fmt: skip
_CEREBELLUM = (
    (20, -58, -36, 7), (36, -62, -38, 6), (0, -62, -22, 6), (10, -75, -30, 6), (0, -55, -12, 3), (30, -48, -44, 5),
    (12, -60, -50, 5), (40, -60, -30, 4),
)  # fmt: skip
_BRAINSTEM = (
    (0, -28, -32, 9), (0, -24, -26, 7), (0, -36, -46, 5), (0, -40, -58, 4), (6, -22, -13, 4), (0, -32, -12, 4),
    (4, -28, -16, 4),
)  # fmt: skip
_DEEP = {
    "thalamus": ((9, -17, 8, 5), (15, -26, 8, 4), (7, -10, 8, 3), (13, -20, 3, 3)),
    "caudate": ((11, 14, 6, 3), (12, 8, 11, 2.5), (14, 0, 18, 1.8), (10, 16, 0, 2.5), (9, 10, -6, 2)),
    "putamen": ((25, 6, 0, 3.5), (27, -2, 4, 2.5), (29, -10, 2, 2), (22, 12, -2, 3)),
    "pallidum": ((18, -3, -1, 2.5), (15, 1, -2, 1.8), (21, -8, 1, 1.8)),
    "hippocampus": ((27, -20, -16, 3), (24, -12, -21, 3), (29, -30, -9, 2.2), (22, -5, -19, 3.5)),
}
# |x|, y and z between which the deep structures lie
_BOXES = {
    "thalamus": ((0, 24), (-34, 1), (-3, 19)),
    "caudate": ((0, 22), (-16, 26), (-12, 26)),
    "putamen": ((14, 36), (-22, 22), (-13, 14)),
    "pallidum": ((11, 28), (-14, 9), (-7, 9)),
    "hippocampus": ((12, 38), (-42, 4), (-28, 1)),
}
_VENTRICLES = ((10, 0, 20), (8, 12, 8), (13, -35, 15), (0, -12, 3), (24, -42, 6))


@dataclass(frozen=True)
class Atlas:
    """The template with labels, axes S, A, R, 1 mm.

    Attributes:
        t1: (1, 1, D, H, W) in [0, 1].
        labels: (1, 1, D, H, W), indices into STRUCTURES.
        depths: (1, 2, D, H, W): signed distance in mm to the inner surface of the cerebral cortex, negative below it,
            and distance in mm to the ventricles.
        outside: (1, 1, ...) with voxels of 2 mm, extended by `_FAR_MM` on each side: distance in mm to the brain,
            0 inside.
        center: MNI mm (z, y, x) of the center of t1.
    """

    t1: torch.Tensor
    labels: torch.Tensor
    depths: torch.Tensor
    outside: torch.Tensor
    center: tuple[float, float, float]

    @cached_property
    def intensities(self) -> torch.Tensor:
        """(1, 2, D, H, W): t1 and the brain mask."""
        return torch.cat([self.t1, (self.t1 > 0).float()], 1)

    def facts(self) -> dict[str, list[float]]:
        """Structure -> [x, y, z of its centroid (LPS mm), volume (ml)], without the background."""
        labels = self.labels[0, 0]
        center = (torch.tensor(labels.shape, dtype=torch.float64) - 1) / 2 - torch.tensor(self.center).double()
        found = {}
        for code, name in enumerate(STRUCTURES[1:], 1):
            voxels = (labels == code).nonzero().double()
            z, y, x = (voxels.mean(0) - center).tolist()
            found[name] = [round(-x, 2), round(-y, 2), round(z, 2), round(len(voxels) / 1000, 2)]
        return found


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """Read the template and compute its labels, in half a minute. Raises InputError where nilearn is not installed."""
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        raise InputError("Synthetic brains need the template in the package nilearn: pip install nilearn.")
    folder = Path(found.origin).parent / "datasets" / "data"
    images = [
        sitk.DICOMOrient(
            sitk.ReadImage(str(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"), sitk.sitkFloat32),
            "LPS",
        )
        for name in ("t1", "gm", "wm")
    ]
    t1, gray, white = (sitk.GetArrayFromImage(image) / 255 for image in images)
    x0, y0, z0 = images[0].GetOrigin()
    k, j, i = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in t1.shape], indexing="ij")
    labels = _draw(t1, gray, white, np.abs(x0 + i), -(y0 + j), z0 + k)
    distance = ndimage.distance_transform_edt(np.pad(t1 == 0, _FAR_MM, constant_values=True))
    covered = ~np.isin(labels, [_CODE[name] for name in ("outside", "cortex", "cerebellar cortex")])
    depth = ndimage.distance_transform_edt(~covered) - ndimage.distance_transform_edt(covered)
    depth = ndimage.gaussian_filter(depth, 0.7)
    to_ventricles = ndimage.distance_transform_edt(labels != _CODE["ventricles"])

    def tensor(array):
        return tensor_from_array(array[:, ::-1, ::-1])[None, None]

    depth_n, height_n, width_n = t1.shape
    center = (
        float(z0 + (depth_n - 1) / 2),
        float(-y0 - (height_n - 1) / 2),
        float(-x0 - (width_n - 1) / 2),
    )
    return Atlas(
        tensor(t1),
        tensor(labels),
        torch.cat([tensor(depth), tensor(to_ventricles)], 1),
        F.avg_pool3d(tensor(distance), 2, ceil_mode=True),
        center,
    )


def _draw(t1, gray, white, x, y, z) -> np.ndarray:
    """Indices into STRUCTURES for each voxel. x: |MNI mm| from the midsagittal plane; y, z: MNI mm."""

    def ball(center_x, center_y, center_z, radius):
        return (x - center_x) ** 2 + (y - center_y) ** 2 + (z - center_z) ** 2 <= radius**2

    brain = t1 > 0
    parts = _parts(ndimage.gaussian_filter(t1, 1.0), brain, white, ball, y, z, x)
    ventricles = _ventricles(t1, brain, x, y, z)
    fluid = np.clip(1 - gray - white, 0, 1)
    tissue = np.where(fluid > np.maximum(gray, white), 0, np.where(white > gray, 1, 2))

    markers = np.zeros(t1.shape, np.uint8)
    for name, balls in _DEEP.items():
        for center in balls:
            markers[ball(*center)] = _CODE[name]
    markers[ventricles] = _CODE["ventricles"]
    white_core = ndimage.binary_erosion(white > 0.9)
    markers[white_core & (markers == 0) & ~ball(9, -17, 8, 13)] = _CODE["white matter"]
    beside = (x > 35) | (y > 26) | (y < -46) | (z > 28) | ((z < -2) & (x < 16) & (y > 14))
    markers[(gray > 0.8) & (markers == 0) & beside] = _CODE["cortex"]
    markers[(parts == 3) & (markers == 0)] = _CODE["brainstem"]
    markers[(parts == 2) & (markers == 0)] = _CODE["cerebellar white matter"]
    deep = _watershed(ndimage.gaussian_gradient_magnitude(t1, 0.7), markers)

    labels = np.zeros(t1.shape, np.uint8)
    labels[brain & (tissue == 1)] = _CODE["white matter"]
    labels[brain & (tissue == 2)] = _CODE["cortex"]
    labels[(parts == 2) & (tissue == 2)] = _CODE["cerebellar cortex"]
    labels[(parts == 2) & (tissue == 1)] = _CODE["cerebellar white matter"]
    labels[(parts == 3) & (t1 > 0.55)] = _CODE["brainstem"]
    for name, ((x0, x1), (y0, y1), (z0, z1)) in _BOXES.items():
        box = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1) & (z >= z0) & (z <= z1)
        labels[box & (deep == _CODE[name]) & (parts != 2)] = _CODE[name]
    cisterns = (x < 9) & (y < -32) & (z < 5) & (z > -14)
    labels[ventricles & ~cisterns] = _CODE["ventricles"]
    labels[~brain] = 0
    return labels


def _parts(smooth, brain, white, ball, y, z, x) -> np.ndarray:
    """1 cerebrum, 2 cerebellum, 3 brainstem, 4 outside: watershed basins of the smoothed T1, with dark borders."""
    markers = np.zeros(smooth.shape, np.uint8)
    white_core = white > 0.85
    markers[white_core & (z > 8)] = 1
    markers[white_core & (x > 30) & (y > -45) & (z > -28)] = 1
    markers[white_core & (y < -82) & (z > -5)] = 1
    markers[white_core & (y > 10) & (z > -20)] = 1
    for code, balls in ((1, _CEREBRUM), (2, _CEREBELLUM), (3, _BRAINSTEM)):
        for center in balls:
            markers[ball(*center)] = code
    markers[~brain] = 4
    return _watershed(-smooth, markers)


def _ventricles(t1, brain, x, y, z) -> np.ndarray:
    """The dark components deep inside, and the fourth ventricle: the largest one between brainstem and cerebellum."""
    depth = ndimage.distance_transform_edt(brain)
    dark = (t1 < 0.52) & (x < 40) & (y > -52) & (y < 36) & (z > -8) & (z < 30) & (depth > 14)
    components, _ = ndimage.label(dark)
    found = np.zeros(t1.shape, bool)
    for seed in _VENTRICLES:
        near = (np.abs(x - seed[0]) < 0.6) & (np.abs(y - seed[1]) < 0.6) & (np.abs(z - seed[2]) < 0.6)
        for component in np.unique(components[near]):
            found |= (components == component) & (component > 0)
    components, count = ndimage.label((t1 < 0.55) & (x < 12) & (y > -56) & (y < -34) & (z > -46) & (z < -16))
    sizes = ndimage.sum(components > 0, components, range(1, count + 1))
    return found | (components == 1 + int(np.argmax(sizes)))


def _watershed(height: np.ndarray, markers: np.ndarray) -> np.ndarray:
    filled = sitk.MorphologicalWatershedFromMarkers(
        sitk.GetImageFromArray(height.astype(np.float32)), sitk.GetImageFromArray(markers), False, False
    )
    return sitk.GetArrayFromImage(filled)
