"""What ITK does not do for single formats: NIfTI and NRRD headers, and DICOM."""
