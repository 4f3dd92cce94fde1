"""Label maps with names: segmentations of Slicer, overlapping segments, and what is kept when they are resampled."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from wavemorph.errors import InputError, OutputError
from wavemorph.evaluation.metrics import label_report
from wavemorph.io.images import read_mask
from wavemorph.io.labels import Structure, label_map_of, read_label_map, warp_label_map
from wavemorph.io.outputs import write_label_map

SHAPE = (20, 22, 24)
LIVER = np.s_[3:9, 4:10, 5:11]
TUMOR = np.s_[6:12, 4:10, 5:11]  # overlaps the liver
SPLEEN = np.s_[14:18, 14:18, 14:18]
SHIFT = sitk.TranslationTransform(3, (2.0, 0.0, 0.0))  # one voxel along i


def header(keys, components=0, kind="list"):
    """The header of a segmentation as Slicer writes it, spacing 2 x 1.5 x 1 mm."""
    sizes = " ".join(str(n) for n in ([components] if components else []) + list(SHAPE[::-1]))
    lines = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {4 if components else 3}",
        "space: left-posterior-superior",
    ]
    lines += [f"sizes: {sizes}", f"space directions: {'none ' if components else ''}(2,0,0) (0,1.5,0) (0,0,1)"]
    lines += [f"kinds: {kind + ' ' if components else ''}domain domain domain", "encoding: raw"]
    lines += ["space origin: (1,2,3)", *(f"{key}:={value}" for key, value in keys.items())]
    return ("\n".join(lines) + "\n\n").encode()


def segment(number, name, label=None, layer=None):
    keys = {f"Segment{number}_ID": f"S_{number}", f"Segment{number}_Name": name}
    keys[f"Segment{number}_Color"] = "0.5 0.25 1"
    keys[f"Segment{number}_Extent"] = "0 23 0 21 0 19"
    keys[f"Segment{number}_Tags"] = "TerminologyEntry:Category~SCT^1^Structure~SCT^10200004^Liver~^^~Codes~^^~^^|"
    keys |= {f"Segment{number}_LabelValue": str(label)} if label is not None else {}
    return keys | ({f"Segment{number}_Layer": str(layer)} if layer is not None else {})


def one_layer():
    labels = np.zeros(SHAPE, np.uint8)
    labels[LIVER], labels[SPLEEN] = 7, 3
    return labels


def written(path, keys, array, components=0, kind="list"):
    path.write_bytes(header(keys, components, kind) + np.ascontiguousarray(array).tobytes())
    return path


def single(path):
    return written(path, {**segment(0, "Leber, groß", 7, 0), **segment(4, "Spleen", 3, 0)}, one_layer())


def layered(path, kind="list"):
    labels = np.zeros((*SHAPE, 2), np.uint8)
    labels[LIVER][..., 0], labels[SPLEEN][..., 0], labels[TUMOR][..., 1] = 1, 2, 1
    keys = {**segment(0, "Liver", 1, 0), **segment(1, "Tumor", 1, 1), **segment(2, "Spleen", 2, 0)}
    keys["Segmentation_ReferenceImageExtentOffset"] = "4 5 6"
    keys["Segmentation_ConversionParameters"] = "Reference image geometry|1;0;0;|Old.&Smoothing factor|0.5|Smooth.&"
    return written(path, keys, labels, 2, kind)


def refusal(function, *arguments):
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_segmentation_has_the_names_of_its_segments(tmp_path):
    labels = read_label_map(single(tmp_path / "s.seg.nrrd"))
    assert labels.structures == (Structure("Leber, groß", 7), Structure("Spleen", 3))
    assert np.array_equal(sitk.GetArrayFromImage(labels.layers[0]), one_layer())


@pytest.mark.parametrize("kind", ["list", "vector"])
def test_overlapping_segments_are_read_in_their_layers(tmp_path, kind):
    labels = read_label_map(layered(tmp_path / "s.seg.nrrd", kind))
    assert labels.structures == (Structure("Liver", 1, 0), Structure("Tumor", 1, 1), Structure("Spleen", 2, 0))
    for layer, expected in enumerate(([LIVER, SPLEEN], [TUMOR])):
        array = sitk.GetArrayFromImage(labels.layers[layer])
        for number, box in enumerate(expected, 1):
            mask = np.zeros(SHAPE, bool)
            mask[box] = True
            assert np.array_equal(array == number, mask)
    assert labels.layers[1].GetOrigin() == (1.0, 2.0, 3.0)
    assert labels.layers[1].GetSpacing() == (2.0, 1.5, 1.0)
    assert np.count_nonzero(sitk.GetArrayFromImage(labels.foreground)) == 216 + 216 - 108 + 64


@pytest.mark.parametrize("make", [single, layered])
def test_lengths_of_a_segmentation_in_other_units_are_converted_and_said(tmp_path, make):
    path = make(tmp_path / "s.seg.nrrd")
    path.write_bytes(path.read_bytes().replace(b"encoding", b'space units: "cm" "cm" "cm"\nencoding', 1))
    labels = read_label_map(path)
    assert labels.layers[0].GetSpacing() == (20.0, 15.0, 10.0)
    assert labels.layers[0].GetOrigin() == (10.0, 20.0, 30.0)
    (remark,) = labels.remarks
    assert '"cm"' in remark and "s.seg.nrrd" in remark
    reported = label_report(labels, labels, sitk.Transform(), distances=False)["remarks"]
    assert reported == 2 * [remark.replace(' "s.seg.nrrd"', "")]


def test_a_segmentation_that_states_no_orientation_is_said(tmp_path):
    path = layered(tmp_path / "s.seg.nrrd")
    path.write_bytes(path.read_bytes().replace(b"space: left-posterior-superior", b"space dimension: 3", 1))
    assert "does not state its orientation" in " ".join(read_label_map(path).remarks)


def test_a_mask_of_overlapping_segments_is_where_any_of_them_is(tmp_path):
    path = layered(tmp_path / "s.seg.nrrd")
    image = sitk.Image(read_label_map(path).layers[0])
    expected = np.zeros(SHAPE, np.uint8)
    for box in (LIVER, SPLEEN, TUMOR):
        expected[box] = 1
    assert np.array_equal(sitk.GetArrayFromImage(read_mask(path, image)), expected)
    color = written(tmp_path / "color.nrrd", {}, np.ones((*SHAPE, 3), np.uint8), 3, "vector")
    assert "3 components" in refusal(read_mask, color, image)


def test_files_of_old_versions_have_one_layer_for_each_segment(tmp_path):
    array = np.zeros((*SHAPE, 2), np.uint8)
    array[LIVER][..., 0], array[TUMOR][..., 1] = 1, 1
    path = written(tmp_path / "s.seg.nrrd", {**segment(0, "Liver"), **segment(1, "Tumor")}, array, 2)
    assert read_label_map(path).structures == (Structure("Liver", 1, 0), Structure("Tumor", 1, 1))
    path = written(tmp_path / "one.seg.nrrd", segment(0, "Liver"), array[..., 0])
    assert read_label_map(path).structures == (Structure("Liver", 1, 0),)


def test_segments_without_voxels_are_left_out_and_labels_without_a_segment_are_not(tmp_path):
    keys = {**segment(0, "Liver", 7, 0), **segment(1, "Empty", 5, 0)}
    labels = read_label_map(written(tmp_path / "s.seg.nrrd", keys, one_layer()))
    assert labels.structures == (Structure("Liver", 7), Structure("", 3))


def test_plain_label_maps_have_no_names_unless_they_are_given():
    image = sitk.GetImageFromArray(one_layer())
    assert label_map_of(image).structures == (Structure("", 3), Structure("", 7))
    assert label_map_of(image, names={7: "Liver", 9: "none"}).structures == (Structure("Liver", 7), Structure("", 3))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("m.tsv", "index\tname\tcolor\n3\tSpleen\t#ff0000\n7\tLiver\t#00ff00\n", ("Spleen", "Liver")),
        ("m.json", '{"3": "Spleen", "7": "Liver"}', ("Spleen", "Liver")),
        ("m.json", '{"labels": {"background": 0, "Spleen": 3, "Liver": 7}}', ("Spleen", "Liver")),
        ("m.json", '{"EchoTime": 0.08, "SeriesNumber": 3, "EchoNumber": 7}', ("", "")),
        ("m.json", "no JSON", ("", "")),
        ("m.tsv", "onset\tduration\n0.5\t1.5\n", ("", "")),
        ("other.tsv", "3\tSpleen\n", ("", "")),
    ],
)
@pytest.mark.parametrize("extension", [".nii.gz", ".mha"])
def test_a_file_beside_a_label_map_names_its_structures_if_it_is_about_labels(
    tmp_path, name, text, expected, extension
):
    sitk.WriteImage(sitk.GetImageFromArray(one_layer()), str(tmp_path / f"m{extension}"))
    (tmp_path / name).write_text(text)
    read = read_label_map(tmp_path / f"m{extension}")
    names = {each.label: each.name for each in read.structures}
    assert (names[3], names[7]) == expected
    write_label_map(warp_label_map(read, read.layers[0], sitk.Transform()), tmp_path / "w.seg.nrrd")
    assert read_label_map(tmp_path / "w.seg.nrrd").structures == read.structures


@pytest.mark.parametrize("make", [single, layered])
def test_a_resampled_segmentation_keeps_names_colors_and_terminology(tmp_path, make):
    before = read_label_map(make(tmp_path / "s.seg.nrrd"))
    lattice = sitk.Image([30, 28, 20], sitk.sitkUInt8)
    lattice.SetOrigin((1.0, 2.0, 3.0))
    lattice.SetSpacing((2.0, 1.5, 1.0))
    write_label_map(warp_label_map(before, lattice, SHIFT), tmp_path / "w.seg.nrrd")
    after = read_label_map(tmp_path / "w.seg.nrrd")
    assert after.structures == before.structures
    for first, second in zip(before.layers, after.layers):
        expected = sitk.Resample(first, lattice, SHIFT, sitk.sitkNearestNeighbor, 0)
        assert np.array_equal(sitk.GetArrayFromImage(second), sitk.GetArrayFromImage(expected))
        assert second.GetSize() == lattice.GetSize()
    for key, value in before.keys.items():
        if key.endswith(("_Name", "_Color", "_Tags", "_ID", "_LabelValue", "_Layer")):
            assert after.keys[key] == value
    assert after.keys["Segment0_Extent"] == "4 9 4 9 3 8"  # of the liver, one voxel lower along i
    assert after.keys["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    assert after.keys.get("Segmentation_ConversionParameters", "Smoothing factor|0.5|Smooth.&") == (
        "Smoothing factor|0.5|Smooth.&"
    )


def test_a_segment_that_leaves_the_lattice_stays_without_voxels(tmp_path):
    labels = read_label_map(single(tmp_path / "s.seg.nrrd"))
    away = warp_label_map(labels, labels.layers[0], sitk.TranslationTransform(3, (22.0, 0.0, 0.0)))
    assert away.structures == (Structure("Spleen", 3),)
    assert away.keys["Segment0_Extent"] == "0 -1 0 -1 0 -1"
    assert away.keys["Segment0_Name"] == "Leber, groß"


def test_overlapping_segments_are_written_as_nrrd_only(tmp_path):
    labels = read_label_map(layered(tmp_path / "s.seg.nrrd"))
    for name in ("l.nii.gz", "l.mha"):
        with pytest.raises(OutputError, match=r"2 layers.*\.seg\.nrrd"):
            write_label_map(labels, tmp_path / name)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (segment(0, "Liver", "seven", 0), '"seven"'),
        ({**segment(0, "Liver", 7, 0), "Segmentation_MasterRepresentation": "Fractional labelmap"}, "fractions"),
        (segment(0, "Liver", 7, 3), "in layer 3, and the file has 1"),
        ({**segment(0, "Liver", 7, 0), **segment(1, "Copy", 7, 0)}, "2 segments"),
    ],
)
def test_segments_that_contradict_their_voxels_are_refused(tmp_path, keys, words):
    assert words in refusal(read_label_map, written(tmp_path / "s.seg.nrrd", keys, one_layer()))


def test_other_images_of_several_components_are_refused(tmp_path):
    path = written(tmp_path / "color.nrrd", {}, np.zeros((*SHAPE, 3), np.uint8), 3, "vector")
    assert "3 components" in refusal(read_label_map, path)
    keys = {**segment(0, "A", 1, 0), **segment(1, "B", 1, 1)}
    path = written(tmp_path / "empty.seg.nrrd", keys, np.zeros((*SHAPE, 2), np.uint8), 2)
    assert "empty" in refusal(read_label_map, path)
    assert "not exist" in refusal(read_label_map, tmp_path / "nowhere.nrrd")
