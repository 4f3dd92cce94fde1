"""All kinds of hostile inputs, by name."""

from __future__ import annotations

from .dicom import DicomFrames, DicomSeries
from .images import Meta, Nifti, Nrrd, OtherImages
from .runner import Format
from .transforms import Fields, Hdf5Transforms, TextTransforms

FORMATS: dict[str, Format] = {
    form.name: form for form in (Nifti(), Nrrd(), Meta(), OtherImages(), DicomSeries(), DicomFrames(), Hdf5Transforms(), TextTransforms(), Fields())
}
