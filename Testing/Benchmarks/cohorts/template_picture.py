"""Draw one subject, the mean of affinely registered subjects, and the template: Resources/Screenshots/template.png.

python Testing/Benchmarks/cohorts/template_picture.py POPULATION TEMPLATE OUTPUT.png

POPULATION and TEMPLATE as in template.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import SimpleITK as sitk
from wavemorph.cohort.subjects import Subject
from wavemorph.cohort.template.jobs import normalized_volume

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("population", type=Path)
    parser.add_argument("template", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    template = sitk.ReadImage(str(options.template / "template.nii.gz"), sitk.sitkFloat32) / 1000
    folders = sorted(path for path in options.template.iterdir() if path.is_dir())
    affine_mean, one = 0.0, None
    for folder in folders:
        name = folder.name.removesuffix("_T1w")
        volume = normalized_volume(Subject(name, options.population / name / "anat" / f"{name}_T1w.nii.gz"))
        whole = sitk.CompositeTransform(sitk.ReadTransform(str(folder / "template_to_subject.h5")))
        affine = whole.GetNthTransform(0)
        resampled = sitk.GetArrayFromImage(sitk.Resample(volume, template, affine, sitk.sitkBSpline))
        one = resampled if one is None else one
        affine_mean = affine_mean + resampled / len(folders)
    shown = {
        "one subject": one,
        f"affine mean of {len(folders)}": affine_mean,
        f"template of {len(folders)}": sitk.GetArrayFromImage(template),
    }
    depth, height, _ = sitk.GetArrayViewFromImage(template).shape
    views = (np.s_[depth // 2 + 5, ::-1, :], np.s_[::-1, height // 2, :])
    figure, axes = plt.subplots(2, 3, figsize=(9, 6.4), facecolor="black")
    for column, (title, values) in enumerate(shown.items()):
        for row, view in enumerate(views):
            axes[row, column].imshow(values[view], cmap="gray", vmin=0, vmax=1.1, interpolation="nearest")
            axes[row, column].axis("off")
        axes[0, column].set_title(title, color="white")
    figure.tight_layout(pad=0.3)
    figure.savefig(options.output, dpi=90)


if __name__ == "__main__":
    main()
