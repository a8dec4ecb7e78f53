"""Files that appear whole or not at all."""

import os
import stat

import pytest

from mote_localization.files import atomic_write


def test_a_file_appears_with_its_content_and_nothing_beside_it(tmp_path):
    with atomic_write(tmp_path / "new" / "a.bin") as file:
        file.write(b"content")
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"content"
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("fault", [OSError, KeyboardInterrupt, MemoryError])
def test_after_a_fault_the_old_file_survives_alone(tmp_path, fault):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(fault), atomic_write(path) as file:
        file.write(b"half")
        raise fault
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_is_as_readable_as_any_other_new_file(tmp_path):
    with atomic_write(tmp_path / "a.bin"):
        pass
    (tmp_path / "b.bin").touch()
    modes = [stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("a.bin", "b.bin")]
    assert modes[0] == modes[1]


def test_a_folder_in_the_way_is_an_oserror(tmp_path):
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(OSError), atomic_write(tmp_path / "a.bin") as file:
        file.write(b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
