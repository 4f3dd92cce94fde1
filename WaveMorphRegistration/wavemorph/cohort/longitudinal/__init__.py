"""One patient, several times: an unbiased midway space, maps between any two times, volume changes of structures.

Reuter et al. (2012), NeuroImage 61, 1402-1418, for the midway space and why all times must be treated alike.
"""
