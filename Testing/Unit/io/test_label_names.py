"""Names of labels in the files of other programs."""

from __future__ import annotations

import json

import pytest
from wavemorph.errors import InputError
from wavemorph.io.text_files.label_names import label_names_beside, read_label_names


@pytest.mark.parametrize(
    "text",
    [
        "# Color table file\n0 Background 0 0 0 0\n10 Left Thalamus 0 118 14 255\n17 Hippocampus 220 216 20 255\n",
        "number,name\n10,Left Thalamus\n17,Hippocampus\n",
        "LabelValue,Name,Color_R,Color_G\n10,Left Thalamus,0,118\n17,Hippocampus,220,216\n",
        '10   0 118  14  1  1  1    "Left Thalamus"\n17 220 216  20  1  1  1    "Hippocampus"\n',
        "\ufeff10\tLeft Thalamus\n\n17\tHippocampus\n",
        "index\tname\tabbreviation\tcolor\n10\tLeft Thalamus\tTHA\t#0076ff\n17\tHippocampus\tHIP\t#dcd814\n",
        "Name;Color;Label\nLeft Thalamus;#0076ff;10\nHippocampus;#dcd814;17\n",
        '"Left Thalamus","10"\n'.join(("name,value\n", "Hippocampus,17\n")),
    ],
)
def test_label_names_are_read_from_common_tables(tmp_path, text):
    path = tmp_path / "names.txt"
    path.write_text(text, encoding="utf-8")
    names = read_label_names(path)
    assert (names[10], names[17]) == ("Left Thalamus", "Hippocampus")


@pytest.mark.parametrize(
    "content",
    [
        {"10": "Left Thalamus", "17": "Hippocampus"},
        {"Left Thalamus": 10, "Hippocampus": 17},
        {"name": "Dataset 1", "labels": {"background": 0, "Left Thalamus": 10, "Hippocampus": 17}},
        {"labels": [{"id": 10, "name": "Left Thalamus"}, {"id": 17, "name": "Hippocampus"}]},
        [{"LabelValue": 10, "Name": "Left Thalamus"}, {"LabelValue": 17, "Name": "Hippocampus"}],
        {"10": {"name": "Left Thalamus", "color": [0, 1, 2]}, "17": {"name": "Hippocampus"}},
    ],
)
def test_label_names_are_read_from_json(tmp_path, content):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    names = read_label_names(path)
    assert (names[10], names[17]) == ("Left Thalamus", "Hippocampus")


def test_json_without_names_is_refused(tmp_path):
    path = tmp_path / "names.json"
    for text, words in (
        ("{\n oops", "Line 2"),
        ('{"EchoTime": 0.1}', "hold no"),
        ("[1, 2]", "hold no"),
        ("3", "hold no"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read_label_names(path)


def test_malformed_label_names_are_refused_with_their_line(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("number name\n1 Cortex\nCaudate 2\n")
    with pytest.raises(InputError, match="Line 3"):
        read_label_names(path)
    path.write_text("nothing here\n")
    with pytest.raises(InputError, match="no line"):
        read_label_names(path)
    with pytest.raises(InputError, match="does not exist"):
        read_label_names(tmp_path / "nowhere.txt")


def test_a_table_belongs_to_a_file_without_an_extension_of_the_same_name_and_to_no_folder(tmp_path):
    for name in (".tsv", "aseg.tsv"):
        (tmp_path / name).write_text(f"index\tname\n10\tof {name}\n")
    (tmp_path / "aseg").write_bytes(b"DICM")
    (tmp_path / "other").write_bytes(b"DICM")
    assert label_names_beside(tmp_path / "aseg") == {10: "of aseg.tsv"}
    assert label_names_beside(tmp_path / "other") == {}
    (tmp_path / "folder").mkdir()
    assert label_names_beside(tmp_path / "folder") == {}
