"""All kinds of hostile inputs, by name."""

from __future__ import annotations

from .dicom import DicomFrames, DicomSeries
from .images import Meta, Nifti, Nrrd, OtherImages
from .models import Cards, Jobs, Results, Weights
from .runner import Format
from .texts import LabelNames, Markups, Tables
from .transforms import Fields, Hdf5Transforms, TextTransforms

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        *(Nifti(), Nrrd(), Meta(), OtherImages(), DicomSeries(), DicomFrames()),
        *(Hdf5Transforms(), TextTransforms(), Fields(), Markups(), Tables(), LabelNames()),
        *(Cards(), Weights(), Jobs(), Results()),
    )
}
