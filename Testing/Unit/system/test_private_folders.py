"""Folders for temporary files: private, removed at the end, and by the next process where theirs was killed."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time

import pytest
from wavemorph.system import private_folders
from wavemorph.system.private_folders import lock_folder, private_folder, remove_abandoned_folders, unlock


def abandoned(parent):
    """What a killed process leaves: a folder that nobody locks."""
    folder = parent / ".wavemorph-abandoned"
    folder.mkdir()
    (folder / "volume.nii").write_text("x")
    return folder


def test_only_the_user_can_enter_it_and_it_goes_with_its_files(tmp_path):
    with pytest.raises(ValueError, match="of the work"), private_folder(tmp_path) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "file").write_text("x")
        raise ValueError("of the work")
    assert list(tmp_path.iterdir()) == []


def test_it_is_made_in_the_folder_of_the_system_where_none_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with private_folder() as folder:
        assert folder.parent == tmp_path
        remove_abandoned_folders()
        assert folder.exists()


def test_abandoned_folders_are_removed_and_no_others(tmp_path):
    abandoned(tmp_path)
    (tmp_path / "wavemorph").mkdir()
    (tmp_path / ".wavemorph-file").write_text("x")
    (tmp_path / ".wavemorph-link").symlink_to(tmp_path / "wavemorph")
    with private_folder(tmp_path) as folder:
        remove_abandoned_folders(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {
            "wavemorph",
            ".wavemorph-file",
            ".wavemorph-link",
            folder.name,
        }


def test_the_folder_of_another_user_is_left(tmp_path, monkeypatch):
    folder = abandoned(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    remove_abandoned_folders(tmp_path)
    assert folder.exists()


def test_a_missing_parent_has_no_abandoned_folders_and_cannot_hold_one(tmp_path):
    remove_abandoned_folders(tmp_path / "missing")
    with pytest.raises(FileNotFoundError), private_folder(tmp_path / "missing"):
        pass


def test_where_folders_cannot_be_locked_none_is_removed(tmp_path, monkeypatch):
    folder = abandoned(tmp_path)

    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(private_folders.fcntl, "flock", unsupported)
    remove_abandoned_folders(tmp_path)
    monkeypatch.setattr(private_folders, "fcntl", None)
    remove_abandoned_folders(tmp_path)
    with private_folder(tmp_path) as own:
        assert own.exists()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_is_taken_for_an_abandoned_one_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    lock, taken = private_folders.lock_folder, []

    def late(folder, seconds=0.0):
        if not taken:
            taken.append(folder)
            remove_abandoned_folders(tmp_path)
        return lock(folder, seconds)

    monkeypatch.setattr(private_folders, "lock_folder", late)
    with private_folder(tmp_path) as folder:
        assert folder.exists() and folder != taken[0]


def test_a_lock_is_waited_for_and_refused_after_the_time(tmp_path):
    first = lock_folder(tmp_path)
    with pytest.raises(BlockingIOError):
        lock_folder(tmp_path, 0.05)
    releasing = threading.Timer(0.2, unlock, [first])
    began = time.monotonic()
    releasing.start()
    second = lock_folder(tmp_path, 20.0)
    assert 0.1 < time.monotonic() - began < 10
    unlock(second)
    releasing.join()
