"""Checkpoints that are damaged, or that a full disk or a killed process cuts off."""

import math
import os
import resource
import signal
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from distill_training.training.checkpoint import (  # noqa: E402
    TrainState,
    load_checkpoint,
    save_checkpoint,
)
from mote_localization.errors import CheckpointError  # noqa: E402
from mote_localization.files import atomic_write  # noqa: E402

pytestmark = pytest.mark.train


def state(step: int = 3, elapsed_s: float = 1.5) -> TrainState:
    network = torch.nn.Linear(200, 200)
    optimizer = torch.optim.AdamW(network.parameters())
    return TrainState(network, optimizer, step=step, elapsed_s=elapsed_s, history=[{"loss": 1.0}])


@pytest.mark.parametrize(
    ("step", "elapsed_s"), [(-5, 1.0), (1, math.nan), (1, math.inf), (1, -1.0), (math.nan, 1.0)]
)
def test_a_checkpoint_from_an_impossible_time_is_refused(tmp_path: Path, step, elapsed_s):
    save_checkpoint(tmp_path, "same", state(step, elapsed_s))
    with pytest.raises(CheckpointError, match="checkpoint.pt: is damaged .*; delete") as caught:
        load_checkpoint(tmp_path, "same", state())
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_error_and_the_old_checkpoint_stays(tmp_path: Path):
    save_checkpoint(tmp_path, "same", state(3))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(
            CheckpointError, match="checkpoint.pt: .*written .File too large.; free"
        ):
            save_checkpoint(tmp_path, "same", state(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found = state(0)
    load_checkpoint(tmp_path, "same", found)
    assert found.step == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_what_a_killed_process_has_begun_to_write_is_overwritten(tmp_path: Path):
    save_checkpoint(tmp_path, "same", state(3))
    child = os.fork()
    if not child:
        with atomic_write(tmp_path / "checkpoint.pt") as file:
            file.write(bytes(10_000_000))
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    save_checkpoint(tmp_path, "same", state(4))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert (tmp_path / "checkpoint.pt").stat().st_size < 1_000_000
