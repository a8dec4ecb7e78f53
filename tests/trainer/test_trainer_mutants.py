"""Damaged reconstructions and checkpoints: each is read, or refused by one error in time."""

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from make_wall import write_wall  # noqa: E402
from test_mutants import assert_read_or_refused  # noqa: E402

from benchmarks.plain_building import Building  # noqa: E402
from distill_training.submaps.partition import PartitionConfig  # noqa: E402
from distill_training.submaps.place import read_place  # noqa: E402
from distill_training.submaps.plan_file import write_plan  # noqa: E402
from distill_training.submaps.planning import make_plan  # noqa: E402
from distill_training.training.checkpoint import TrainState, save_checkpoint  # noqa: E402

pytestmark = pytest.mark.train

COUNT = int(os.environ.get("MOTE_MUTANTS", 200)) // 2
IDENTITY = "same"


def train_state(step: int = 0) -> TrainState:
    """Return the state of a tiny training, with an average of the weights."""
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    averaged = torch.optim.swa_utils.AveragedModel(network)
    return TrainState(network, optimizer, averaged, step, 2.5, [{"step": 0.0, "loss": 1.0}])


def test_damaged_files_of_the_trainer_are_read_or_refused_by_one_error(tmp_path: Path):
    write_wall(tmp_path / "reconstruction" / "wall")
    save_checkpoint(tmp_path / "checkpoint" / "training", IDENTITY, train_state(3))
    building = Building(corridors=1, rooms=1)
    place = read_place(building.scene(building.drive(60)))
    plan = make_plan(place, PartitionConfig(frames=30), "building", {})
    write_plan(tmp_path / "plan" / "building.plan", plan)
    assert_read_or_refused(tmp_path, 0, COUNT, most_mb=900)  # torch itself takes 400 MB
