"""Atomic writing: a file is replaced completely or not at all."""

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from mote_localization.errors import MapFileError, MoteError
from mote_localization.files import atomic_write, check_output


def test_file_is_written_without_leftovers(tmp_path):
    with atomic_write(tmp_path / "new" / "a.bin") as file:
        file.write(b"content")
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"content"
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_old_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("fault", "raised"),
    [(OSError, MoteError), (KeyboardInterrupt, KeyboardInterrupt), (MemoryError, MemoryError)],
)
def test_after_an_error_only_the_old_file_remains(tmp_path, fault, raised):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(raised), atomic_write(path) as file:
        file.write(b"half")
        raise fault
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_file_mode_is_that_of_any_new_file(tmp_path):
    with atomic_write(tmp_path / "a.bin"):
        pass
    (tmp_path / "b.bin").touch()
    modes = [stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("a.bin", "b.bin")]
    assert modes[0] == modes[1]


def test_two_writers_of_a_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_write(path) as first:
        first.write(b"fir")
        with atomic_write(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
        first.write(b"st")
    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_system_without_locks_is_no_error(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"new"]


def test_what_has_the_name_of_the_temporary_file_is_not_written_to(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    for make in (os.link, os.symlink, lambda _, name: os.mkfifo(name)):
        temporary = tmp_path / ".a.bin.part"
        make(other, temporary)
        with atomic_write(tmp_path / "a.bin") as file:
            file.write(b"new")
        assert other.read_bytes() == b"precious"
        assert (tmp_path / "a.bin").read_bytes() == b"new"
        assert stat.S_ISREG(os.lstat(tmp_path / "a.bin").st_mode)
        temporary.unlink()


def test_folder_at_the_path_is_the_given_error_with_the_given_advice(tmp_path):
    (tmp_path / "a.bin").mkdir()
    message = r"a\.bin: cannot be written \(.*\); choose another"
    with pytest.raises(MapFileError, match=message):
        with atomic_write(tmp_path / "a.bin", MapFileError, "; choose another") as file:
            file.write(b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("path", ["folder", "/proc/none/a.bin"])
def test_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(MoteError, match=f"--json {path}: "):
        check_output(Path(path), "--json")


def test_checked_output_leaves_no_trace(tmp_path):
    check_output(None, "--json")
    check_output(tmp_path / "new/a.json", "--json")
    assert not any(tmp_path.iterdir())


def test_output_with_a_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(MoteError, match="--json .*: cannot be written"):
        check_output(tmp_path / ("n" * 300), "--json")


def test_output_below_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)  # root may look into every folder
    with pytest.raises(MoteError, match="cannot be written .Permission denied"):
        check_output(tmp_path / "closed/a.json", "--json")
