"""DICOM: headers and frames become slices, slices become images, and an image becomes a volume on a regular lattice.

`headers` and `multiframe` read slices, `grouping` tells the images of a series apart, `stack` puts the slices of one
image together, and `reader` does all of it for a folder or a file.
"""
