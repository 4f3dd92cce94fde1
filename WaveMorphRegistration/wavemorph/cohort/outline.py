"""Where the subject is in a volume that a study shows or measures: heads, brains, or other parts of a body."""

from __future__ import annotations

import SimpleITK as sitk

_CLOSING_VOXELS = 2


def intensity_classes(image: sitk.Image) -> sitk.Image:
    """0 for air, 1 and 2 for darker and brighter tissue, by Otsu's method with two thresholds."""
    return sitk.OtsuMultipleThresholds(sitk.Cast(image, sitk.sitkFloat32), 2)


def subject_mask(image: sitk.Image) -> sitk.Image:
    """1 within the largest piece of tissue and what it encloses, uint8."""
    tissue = sitk.BinaryMorphologicalClosing(intensity_classes(image) > 0, [_CLOSING_VOXELS] * 3)
    largest = sitk.RelabelComponent(sitk.ConnectedComponent(tissue), sortByObjectSize=True) == 1
    return sitk.BinaryFillhole(largest)
