"""Pairs in the module Sample Data: volumes that Slicer hosts, and a synthetic pair.

Imported at each start of Slicer: what takes time or memory is imported where it is used.
"""

from __future__ import annotations

import os

import slicer

from ..translation import _

CATEGORY = "WaveMorph"
_HOSTED = "https://github.com/Slicer/SlicerTestingData/releases/download/SHA256/"
_FILES = {  # name: (file name, SHA-256), as in Slicer's own list
    "MRBrainTumor1": ("RegLib_C01_1.nrrd", "998cb522173839c78657f4bc0ea907cea09fd04e44601f17c82ea27927937b95"),
    "MRBrainTumor2": ("RegLib_C01_2.nrrd", "1a64f3f422eb3d1c9b093d1a18da354b13bcf307907c66317e2463ee530b7a97"),
    "MRBrainT1": ("MR-brain-T1.nrrd", "2da3f655ed20356ee8cdf32aa0f8f9420385de4b6e407d28e67f9974d7ce1593"),
    "MRBrainT2": ("MR-brain-T2.nrrd", "fa1fe5910a69182f2b03c0150d8151ac6c75df986449fb5a6c5ae67141e0f5e7"),
    "MRHead": ("MR-head.nrrd", "cc211f0dfd9a05ca3841ce1141b292898b2dd2d3f08286affadf823a7e58df93"),
}
PAIRS = {  # sample: (fixed, moving)
    "OnePatientTwoTimes": ("MRBrainTumor1", "MRBrainTumor2"),
    "TwoHeads": ("MRHead", "MRBrainTumor1"),
    "T1AndT2": ("MRBrainT1", "MRBrainT2"),
}
SYNTHETIC = "SyntheticPair"


def registerPairs(iconsPath: str) -> None:
    """Register the pairs, once Slicer has started; a pair is downloaded when it is clicked.

    iconsPath: the folder of the thumbnail.
    """
    from SampleData import SampleDataLogic

    if hasattr(SampleDataLogic, "registerCustomSampleDataCategory"):  # not in Slicer 5.8, where the name is the title
        SampleDataLogic.registerCustomSampleDataCategory(CATEGORY, title=_("WaveMorph"))
    icon = os.path.join(iconsPath, "WaveMorphRegistration.png")
    for sample, names in PAIRS.items():
        SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=sample,
            uris=[_HOSTED + _FILES[name][1] for name in names],
            fileNames=[_FILES[name][0] for name in names],
            checksums=["SHA256:" + _FILES[name][1] for name in names],
            nodeNames=list(names),
            thumbnailFileName=icon,
        )
    SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=SYNTHETIC,
        customDownloader=lambda source: addSyntheticPair(),
        thumbnailFileName=icon,
    )


def addSyntheticPair(oblique: bool = True) -> list:
    """Create a `SyntheticPair` in the scene, and return its volume nodes, fixed and moving."""
    from ..scene.volumes import updateVolumeNodeFromImage
    from .syntheticPair import SyntheticPair

    pair, nodes = SyntheticPair(oblique=oblique), []
    for name, image in ((_("Synthetic fixed"), pair.fixed), (_("Synthetic moving"), pair.moving)):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        updateVolumeNodeFromImage(image, node)
        node.CreateDefaultDisplayNodes()
        nodes.append(node)
    return nodes
