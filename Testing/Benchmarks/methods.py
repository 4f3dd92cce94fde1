"""The methods that are compared: each reads two volumes and an affine start, and writes fixed points -> moving points.

Run by benchmark.py in a process of its own: python methods.py METHOD FIXED MOVING AFFINE OUTPUT THREADS
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def read(path: str) -> sitk.Image:
    return sitk.ReadImage(path, sitk.sitkFloat32)


def wavemorph_preset(preset: str, weights: str = "auto"):
    """`wavemorph.register` from the common affine start."""

    def run(fixed: str, moving: str, affine: str, output: str, threads: int) -> None:
        import wavemorph
        from wavemorph.machine import keep_freed_memory
        from wavemorph.outputs import write_transform

        keep_freed_memory()
        settings = wavemorph.Settings(preset=preset, weights=weights, threads=threads, affine=False, device="cpu")
        start = sitk.ReadTransform(affine)
        write_transform(wavemorph.register(read(fixed), read(moving), settings, initial_transform=start), output)

    return run


def affine_only(fixed: str, moving: str, affine: str, output: str, threads: int) -> None:
    sitk.WriteTransform(sitk.ReadTransform(affine), output)


def demons(fixed: str, moving: str, affine: str, output: str, threads: int) -> None:
    """SimpleITK's diffeomorphic demons, at a quarter, half and full resolution, after matching the histograms."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    target, start = read(fixed), sitk.ReadTransform(affine)
    seen = sitk.HistogramMatching(sitk.Resample(read(moving), target, start), target, 256, 16, True)
    field = None
    for factor, iterations in ((4, 60), (2, 40), (1, 20)):
        small = [
            sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, factor / 2) if factor > 1 else image, [factor] * 3)
            for image in (target, seen)
        ]
        one = sitk.DiffeomorphicDemonsRegistrationFilter()
        one.SetNumberOfIterations(iterations)
        one.SetStandardDeviations(1.2)
        field = one.Execute(*small) if field is None else one.Execute(*small, sitk.Resample(field, small[0]))
    deformation = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    sitk.WriteTransform(sitk.CompositeTransform([start, deformation]), output)


def syn(fixed: str, moving: str, affine: str, output: str, threads: int) -> None:
    """ANTs SyN with the defaults of antspyx, without its own affine stage."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    import ants

    with tempfile.TemporaryDirectory() as folder:
        matrix = Path(folder) / "affine.mat"
        sitk.WriteTransform(sitk.AffineTransform(sitk.ReadTransform(affine)), str(matrix))
        made = ants.registration(
            ants.image_read(fixed), ants.image_read(moving), "SyNOnly", str(matrix), outprefix=f"{folder}/out"
        )
        parts = []
        for path in made["fwdtransforms"]:
            if path.endswith(".nii.gz"):
                parts.append(sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64)))
            else:
                parts.append(sitk.ReadTransform(path))
        sitk.WriteTransform(sitk.CompositeTransform(parts), output)


def greedy(fixed: str, moving: str, affine: str, output: str, threads: int) -> None:
    """greedy, local correlation in windows of 5 voxels, 100x50x10 iterations."""
    from picsl_greedy import Greedy3D

    start = sitk.AffineTransform(sitk.ReadTransform(affine))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(start.GetMatrix(), (3, 3))
    matrix[:3, 3] = start.TransformPoint((0.0, 0.0, 0.0))
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])  # greedy's matrices speak RAS
    with tempfile.TemporaryDirectory() as folder:
        np.savetxt(f"{folder}/affine.mat", flip @ matrix @ flip)
        Greedy3D().execute(
            f"-i {fixed} {moving} -it {folder}/affine.mat -m NCC 2x2x2 -n 100x50x10 "
            f"-o {folder}/warp.nii.gz -threads {threads} -V 0"
        )
        warp = sitk.ReadImage(f"{folder}/warp.nii.gz", sitk.sitkVectorFloat64)
        parts = [start, sitk.DisplacementFieldTransform(warp)]
        sitk.WriteTransform(sitk.CompositeTransform(parts), output)


METHODS = {
    "affine": affine_only,
    "demons": demons,
    "syn": syn,
    "greedy": greedy,
    "instant": wavemorph_preset("Instant"),
    "balanced": wavemorph_preset("Balanced"),
    "balanced-zero": wavemorph_preset("Balanced", "none"),
    "precise": wavemorph_preset("Precise"),
}
NAMES = {
    "affine": "affine alone",
    "demons": "SimpleITK diffeomorphic demons",
    "syn": "ANTs SyN, antspyx default",
    "greedy": "greedy, NCC 2x2x2, 100x50x10",
    "instant": "WaveMorph Instant",
    "balanced": "WaveMorph Balanced",
    "balanced-zero": "WaveMorph Balanced, no weights",
    "precise": "WaveMorph Precise",
}
NEEDS = {"syn": "ants", "greedy": "picsl_greedy"}

if __name__ == "__main__":
    method, *paths, count = sys.argv[1:]
    METHODS[method](*paths, int(count))
    status = Path("/proc/self/status").read_text(encoding="ascii")  # what the parent could ask for would include itself
    Path(f"{paths[-1]}.peak_kb").write_text(status.split("VmHWM:")[1].split()[0], encoding="ascii")
