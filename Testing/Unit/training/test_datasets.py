"""Data sets in the paper's layouts, and pickles that cannot be trusted."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from miniatures import subject
from wavemorph.errors import InputError
from wavemorph.training.datasets import IXI_LABELS, DataPairs, IxiData, OasisData, read_pickled


def test_pairs_of_ixi_align_the_atlas_to_each_patient_once_an_epoch(ixi):
    pairs = DataPairs(IxiData(ixi), seed=3)
    atlas = read_pickled(ixi / "atlas.pkl").volume
    first = [pairs[n] for n in range(4)]
    assert all(np.allclose(np.array(pair.moving[0, 0].tolist(), np.float32), atlas) for pair in first)
    sums = [float(pair.fixed.sum()) for pair in first]
    assert len(set(sums)) == 4
    assert sorted(sums) == sorted(float(pairs[n].fixed.sum()) for n in range(4, 8))
    assert len(IXI_LABELS) == 30


def test_the_validation_subjects_of_oasis_never_train(oasis, tmp_path):
    data = OasisData(oasis)
    assert [path.name[6:10] for path in data.training()] == ["0001", "0002", "0003"]
    assert [(m.name[6:10], f.name[6:10]) for m, f in data.pairs()] == [("0439", "0438"), ("0440", "0439")]
    (tmp_path / "imagesTr").mkdir()
    for n in (1, 5, 438, 457):
        (tmp_path / "imagesTr" / f"OASIS_{n:04}_0000.nii.gz").touch()
    without_table = OasisData(tmp_path)
    assert [path.name[6:10] for path in without_table.training()] == ["0001", "0005"]
    with pytest.raises(InputError, match="subject 439 is missing"):
        without_table.pairs()


class Malicious:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize(
    "content", [Malicious(), (np.zeros((2, 2, 2)), Malicious()), np.array([Malicious()], dtype=object), "text"]
)
def test_a_pickle_that_is_not_a_pair_of_arrays_is_refused_before_anything_of_it_runs(tmp_path, capsys, content):
    path = tmp_path / "subject.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError):
        read_pickled(path)
    assert "must never run" not in capsys.readouterr().out


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_of_every_protocol_are_read(tmp_path, protocol):
    volume, labels = subject(1)
    buffer = io.BytesIO()
    pickle.dump((volume, labels), buffer, protocol)
    (tmp_path / "s.pkl").write_bytes(buffer.getvalue())
    read = read_pickled(tmp_path / "s.pkl")
    assert np.array_equal(read.volume, volume)
    assert np.array_equal(read.labels, labels)
