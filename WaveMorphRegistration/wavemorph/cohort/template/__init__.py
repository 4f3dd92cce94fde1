"""An unbiased template of a population: the mean of its registered volumes, in the mean of its shapes.

Guimond et al. (2000), Comput. Vis. Image Underst. 77, 192-210; Avants et al. (2010), NeuroImage 49, 2457-2466.
"""
