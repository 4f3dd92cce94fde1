"""The methods that are compared: each reads two volumes and an affine start, and writes fixed points -> moving points.

Run by benchmark.py in a process of its own: python methods.py METHOD FIXED MOVING AFFINE OUTPUT THREADS
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def read(path: str) -> sitk.Image:
    return sitk.ReadImage(path, sitk.sitkFloat32)


def wavemorph_preset(preset: str, weights: str = "auto"):
    """`wavemorph.register` from the common affine start."""

    def run(fixed: str, moving: str, affine: str, output: str, threads: int) -> None:
        from wavemorph.system.process import set_passive_wait

        set_passive_wait()
        import wavemorph
        from wavemorph.io.outputs import write_transform

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
    matched = sitk.HistogramMatching(sitk.Resample(read(moving), target, start), target, 256, 16, True)
    field = None
    for factor, iterations in ((4, 60), (2, 40), (1, 20)):
        small = [
            sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, factor / 2) if factor > 1 else image, [factor] * 3)
            for image in (target, matched)
        ]
        one = sitk.DiffeomorphicDemonsRegistrationFilter()
        one.SetNumberOfIterations(iterations)
        one.SetStandardDeviations(1.2)
        field = one.Execute(*small) if field is None else one.Execute(*small, sitk.Resample(field, small[0]))
    deformation = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    sitk.WriteTransform(sitk.CompositeTransform([start, deformation]), output)


def syn(kind: str, **choices):
    """ANTs SyN by antspyx, without its own affine stage."""

    def run(fixed: str, moving: str, affine: str, output: str, threads: int) -> None:
        os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
        import ants

        with tempfile.TemporaryDirectory() as folder:
            matrix = Path(folder) / "affine.mat"
            sitk.WriteTransform(sitk.AffineTransform(sitk.ReadTransform(affine)), str(matrix))
            made = ants.registration(
                ants.image_read(fixed), ants.image_read(moving), kind, str(matrix), f"{folder}/out", **choices
            )
            parts = []
            for path in made["fwdtransforms"]:
                if path.endswith(".nii.gz"):
                    parts.append(sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64)))
                else:
                    parts.append(sitk.ReadTransform(path))
            sitk.WriteTransform(sitk.CompositeTransform(parts), output)

    return run


def greedy(fixed: str, moving: str, affine: str, output: str, threads: int) -> None:
    """greedy, local correlation in windows of 5 voxels, 100x50x10 iterations."""
    from picsl_greedy import Greedy3D

    start = sitk.AffineTransform(sitk.ReadTransform(affine))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(start.GetMatrix(), (3, 3))
    matrix[:3, 3] = start.TransformPoint((0.0, 0.0, 0.0))
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])  # greedy's matrices are in RAS
    with tempfile.TemporaryDirectory() as folder:
        np.savetxt(f"{folder}/affine.mat", flip @ matrix @ flip)
        Greedy3D().execute(
            f"-i {fixed} {moving} -it {folder}/affine.mat -m NCC 2x2x2 -n 100x50x10 "
            f"-o {folder}/warp.nii.gz -threads {threads} -V 0"
        )
        warp = sitk.ReadImage(f"{folder}/warp.nii.gz", sitk.sitkVectorFloat64)
        parts = [start, sitk.DisplacementFieldTransform(warp)]
        sitk.WriteTransform(sitk.CompositeTransform(parts), output)


def elastix(fixed: str, moving: str, affine: str, output: str, threads: int) -> None:
    """elastix: its default map for B-splines (mutual information and bending energy), and the program's own field."""
    target, start = read(fixed), sitk.AffineTransform(sitk.ReadTransform(affine))
    numbers = [*start.GetMatrix(), *start.TransformPoint((0.0, 0.0, 0.0))]
    before = {
        "Transform": "AffineTransform",
        "NumberOfParameters": 12,
        "TransformParameters": numbers,
        "CenterOfRotationPoint": [0, 0, 0],
        "InitialTransformParametersFileName": "NoInitialTransform",
        "HowToCombineTransforms": "Compose",
        "FixedImageDimension": 3,
        "MovingImageDimension": 3,
        "Size": target.GetSize(),
        "Index": [0, 0, 0],
        "Spacing": target.GetSpacing(),
        "Origin": target.GetOrigin(),
        "Direction": np.reshape(target.GetDirection(), (3, 3)).T.ravel().tolist(),  # by columns
        "UseDirectionCosines": "true",
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, parameters in (("affine", before), ("bspline", ELASTIX)):
            Path(f"{folder}/{name}.txt").write_text(_elastix_file(parameters), encoding="ascii")
        common = ["-out", folder, "-threads", str(threads)]
        images = ["-f", fixed, "-m", moving, "-t0", f"{folder}/affine.txt", "-p", f"{folder}/bspline.txt"]
        subprocess.run(["elastix", *images, *common], stdout=subprocess.DEVNULL, check=True)
        found = ["-def", "all", "-tp", f"{folder}/TransformParameters.0.txt"]
        subprocess.run(["transformix", *found, *common], stdout=subprocess.DEVNULL, check=True)
        field = sitk.ReadImage(f"{folder}/deformationField.mhd", sitk.sitkVectorFloat64)  # affine included
    sitk.WriteTransform(sitk.DisplacementFieldTransform(field), output)


def _elastix_file(parameters: dict) -> str:
    """Lines of (Name value value ...), texts in quotation marks."""
    lines = []
    for name, values in parameters.items():
        values = [values] if isinstance(values, (str, int, float)) else values
        written = [f'"{value}"' if isinstance(value, str) else repr(value) for value in values]
        lines.append(f"({name} {' '.join(written)})\n")
    return "".join(lines)


def convex_adam(
    fixed: str, moving: str, affine: str, output: str, threads: int, spacing_mm: float = 1.0, margin_mm: float = 10.0
) -> None:
    """ConvexAdam with MIND features by its authors' package and defaults, around the fixed foreground.

    The sides are multiples of its coarse grid's step, because it stretches the field where they are not.
    """
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt
    from wavemorph.spatial.grid import make_working_grid, tensor_from_array
    from wavemorph.spatial.preprocessing import bounding_box, foreground

    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    target, start = read(fixed), sitk.ReadTransform(affine)
    grid = make_working_grid(target, bounding_box(foreground(target)), spacing_mm, margin_mm, divisor=12)
    images = [sitk.GetArrayFromImage(grid.resample(i, t)) for i, t in ((target, None), (read(moving), start))]
    found = convex_adam_pt(*images, dtype=torch.float32, device=torch.device("cpu"))  # (D, H, W, 3) in voxels
    field = grid.to_mm(tensor_from_array(np.moveaxis(found, -1, 0).astype(np.float32))[None])
    deformation = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    sitk.WriteTransform(sitk.CompositeTransform([start, deformation]), output)


FIREANTS_ITERATIONS = (250, 200, 100)  # of its authors for OASIS, from coarse to fine


def fireants_version() -> str | None:
    """The version of FireANTs, or None where it is not installed."""
    if importlib.util.find_spec("fireants") is None:
        return None
    return importlib.metadata.version("fireants")


def fireants(
    fixed: sitk.Image, moving: sitk.Image, affine: sitk.AffineTransform, iterations: tuple[int, ...], device: str
) -> sitk.Transform:
    """FireANTs' greedy registration with its authors' settings for OASIS, from an affine; fixed -> moving points."""
    import torch
    from fireants.io import BatchedImages, Image
    from fireants.registration.greedy import GreedyRegistration

    images = [BatchedImages(Image(_scaled(each), device=device)) for each in (fixed, moving)]
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(affine.GetMatrix(), (3, 3))
    matrix[:3, 3] = affine.TransformPoint((0.0, 0.0, 0.0))
    found = GreedyRegistration(
        [4, 2, 1],
        list(iterations),
        *images,
        deformation_type="compositive",
        optimizer="adam",
        optimizer_lr=0.25,
        optimizer_params={"beta1": 0.1, "scaledown": False},
        cc_kernel_size=7,
        smooth_grad_sigma=1,
        smooth_warp_sigma=0.25,
        init_affine=torch.tensor(matrix[None].tolist(), device=device),
        progress_bar=False,
    )
    found.optimize()
    with tempfile.TemporaryDirectory() as folder:
        field = f"{folder}/field.nii.gz"
        found.save_as_ants_transforms(field)
        return sitk.DisplacementFieldTransform(sitk.ReadImage(field, sitk.sitkVectorFloat64))


def _scaled(image: sitk.Image) -> sitk.Image:
    """Intensities from 0 to 1, as FireANTs expects them."""
    values = sitk.GetArrayViewFromImage(image)
    low, high = np.percentile(values, (0, 99.5))
    return sitk.Clamp((image - float(low)) / float(max(high - low, 1e-6)), sitk.sitkFloat32, 0.0, 1.2)


@dataclass(frozen=True)
class Peer:
    """What a method needs: a Python package, or else a program; `source` tells how to install it."""

    source: str
    module: str | None = None
    program: str | None = None

    @property
    def present(self) -> bool:
        if self.program:
            return shutil.which(self.program) is not None
        return importlib.util.find_spec(self.module) is not None

    @property
    def version(self) -> str | None:
        """None where it is not installed."""
        if not self.present:
            return None
        if self.program:
            return subprocess.check_output([self.program, "--version"], text=True).split()[-1]
        return importlib.metadata.version(self.source.split()[-1])


# SimpleElastix's and itk-elastix's default for B-splines
ELASTIX = {
    "FixedInternalImagePixelType": "float",
    "MovingInternalImagePixelType": "float",
    "FixedImageDimension": 3,
    "MovingImageDimension": 3,
    "UseDirectionCosines": "true",
    "Registration": "MultiMetricMultiResolutionRegistration",
    "FixedImagePyramid": "FixedSmoothingImagePyramid",
    "MovingImagePyramid": "MovingSmoothingImagePyramid",
    "Interpolator": "LinearInterpolator",
    "ImageSampler": "RandomCoordinate",
    "NewSamplesEveryIteration": "true",
    "NumberOfSpatialSamples": 2048,
    "CheckNumberOfSamples": "true",
    "MaximumNumberOfSamplingAttempts": 8,
    "Metric": ["AdvancedMattesMutualInformation", "TransformBendingEnergyPenalty"],
    "Metric0Weight": 1.0,
    "Metric1Weight": 1.0,
    "Optimizer": "AdaptiveStochasticGradientDescent",
    "AutomaticParameterEstimation": "true",
    "NumberOfSamplesForExactGradient": 4096,
    "MaximumNumberOfIterations": 256,
    "NumberOfResolutions": 4,
    "Transform": "BSplineTransform",
    "FinalGridSpacingInPhysicalUnits": 8.0,
    "GridSpacingSchedule": [2.803221, 1.988100, 1.410000, 1.0],
    "HowToCombineTransforms": "Compose",
    "ResampleInterpolator": "FinalBSplineInterpolator",
    "Resampler": "DefaultResampler",
    "WriteResultImage": "false",
}
METHODS = {
    "affine": affine_only,
    "demons": demons,
    "syn": syn("SyNOnly"),
    "syn-cc": syn("SyNOnly", syn_metric="CC", syn_sampling=2),
    "syn-cc-full": syn("SyNOnly", syn_metric="CC", syn_sampling=4, reg_iterations=(100, 70, 20)),
    "greedy": greedy,
    "elastix": elastix,
    "convex-adam": convex_adam,
    "instant": wavemorph_preset("Instant"),
    "balanced": wavemorph_preset("Balanced"),
    "balanced-zero": wavemorph_preset("Balanced", "none"),
    "precise": wavemorph_preset("Precise"),
}
NAMES = {
    "affine": "affine alone",
    "demons": "SimpleITK diffeomorphic demons",
    "syn": "ANTs SyN, antspyx default (MI, 40x20x0)",
    "syn-cc": "ANTs SyN, CC radius 2, 40x20x0",
    "syn-cc-full": "ANTs SyN, CC radius 4, 100x70x20",
    "greedy": "greedy, NCC 2x2x2, 100x50x10",
    "elastix": "elastix B-spline, its default (MI, 8 mm, 4 x 256)",
    "convex-adam": "ConvexAdam, MIND, its default",
    "instant": "WaveMorph Instant",
    "balanced": "WaveMorph Balanced",
    "balanced-zero": "WaveMorph Balanced, no weights",
    "precise": "WaveMorph Precise",
}
ON_REQUEST = {"syn-cc-full"}  # far slower than the others: 20 iterations at full resolution
SHORT = {
    "demons": "demons",
    "syn": "SyN, MI",
    "syn-cc": "SyN, CC",
    "syn-cc-full": "SyN, CC, longer",
    "greedy": "greedy",
    "elastix": "elastix",
    "convex-adam": "ConvexAdam",
}
PEERS = {
    "antspyx": Peer("pip install antspyx", module="ants"),
    "greedy": Peer("pip install picsl_greedy", module="picsl_greedy"),
    "elastix": Peer("apt-get install elastix", program="elastix"),
    "convexAdam": Peer("pip install convexAdam", module="convexAdam"),
}
NEEDS = {
    "syn": PEERS["antspyx"],
    "syn-cc": PEERS["antspyx"],
    "syn-cc-full": PEERS["antspyx"],
    "greedy": PEERS["greedy"],
    "elastix": PEERS["elastix"],
    "convex-adam": PEERS["convexAdam"],
}


def peak_kb() -> int:
    """Of this process or, where it is more, of the largest program that it has run."""
    status = Path("/proc/self/status").read_text(encoding="ascii")  # what the parent could ask for would include itself
    own = int(status.split("VmHWM:")[1].split()[0])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


if __name__ == "__main__":
    method, *paths, count = sys.argv[1:]
    METHODS[method](*paths, int(count))
    Path(f"{paths[-1]}.peak_kb").write_text(str(peak_kb()), encoding="ascii")
