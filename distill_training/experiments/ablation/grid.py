"""The trainings of an ablation: grids and rows of settings in a YAML file.

    reconstructions:            # name -> folder, relative to the file
      kitchen: kitchen.training/reconstruction
    common: {steps: 3000}       # settings of all trainings
    grid: {student: [cnn, vit]} # every combination; several grids as a list
    rows: [{name: large, student: cnn, size: l}]

A key is an option of a training (`augment.zoom` as on the command line), a setting of the student's
family, `student`, `reconstruction`, or `epochs`. Everything is checked before any training.
"""

import itertools
import math
import re
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

from distill_training.common.typed_values import convert_value, shown
from distill_training.experiments.ablation.grid_file import (
    BUDGETS,
    Value,
    as_mapping,
    as_settings,
    read_yaml,
)
from distill_training.reconstruction import Reconstruction, open_reconstruction
from distill_training.students import FAMILIES
from distill_training.students.settings import Settings, student_settings
from distill_training.training.augment_config import AugmentConfig
from distill_training.training.frame_split import split_frames
from distill_training.training.identity import training_identity
from distill_training.training.train_config import TrainConfig
from mote_localization.errors import MoteError

_MAX_RUNS = 1000
_MAX_STEPS = 10**9
_FILE_NAME = re.compile(r"[\w.+-]{1,40}")
_NAME = re.compile(r"[\w .,:=+()/-]{1,60}")
_AUGMENT = "augment."
# Keys whose value appears in names without the key, in this order.
_KEYS_NAMED_BY_VALUE = ("student", "size", "variant", "reconstruction", "loss")


@dataclass(frozen=True)
class Run:
    """One training of an ablation."""

    name: str  # different for each training
    reconstruction_name: str
    reconstruction: Reconstruction
    student: str
    settings: Settings  # of the student
    config: TrainConfig
    given: dict[str, Value]  # settings that the file gives, by key

    @cached_property
    def key(self) -> str:
        """Ten letters that identify everything the training depends on."""
        identity = training_identity(self.reconstruction, self.student, self.settings, self.config)
        return identity[:10]

    def value(self, key: str) -> Value:
        """Return this training's value of a key, given or default; None if it has no effect."""
        if key in self.given:
            return self.given[key]
        if key in BUDGETS:
            return None  # another budget is given
        if key in training_option_types():
            holder = self.config.augment if key.startswith(_AUGMENT) else self.config
            value = getattr(holder, key.removeprefix(_AUGMENT))
            return list(value) if isinstance(value, tuple) else value
        return getattr(FAMILIES[self.student][1](), key, None)

    @property
    def folder_name(self) -> str:
        """Name of its folder: readable and unique."""
        return f"{re.sub(r'[^a-zA-Z0-9.+-]+', '-', self.name)[:100]}-{self.key}"


def read_grid(path: Path) -> list[Run]:
    """Return the trainings that a file describes, in its order: grids first, then rows.

    Raises:
        MoteError: The file cannot be read, or describes trainings that are invalid or cannot be
            compared.
        ReconstructionError: A reconstruction cannot be used.
        CheckpointError: A pretrained file cannot be read.
    """
    content = as_mapping(read_yaml(path), f"{path}")
    known = ("reconstructions", "common", "grid", "rows")
    if unknown := [key for key in content if key not in known]:
        raise MoteError(f"{path}: found '{unknown[0][:40]}', expected {', '.join(known)}")
    common = as_settings(content.get("common", {}), f"{path}: common")
    reconstructions = _open_all(
        path, as_mapping(content.get("reconstructions"), f"{path}: reconstructions")
    )
    rows: list[tuple[str | None, dict[str, Value]]] = []  # name, where it has one, and settings
    rows += [(None, given) for given in _combinations(content.get("grid", []), f"{path}: grid")]
    rows += _read_rows(content.get("rows", []), f"{path}: rows", _MAX_RUNS - len(rows))
    if not rows:
        raise MoteError(f"{path}: found neither grid nor rows, expected at least one of them")
    student = {"student": common.get("student", "cnn")}
    generated = iter(_generate_names([student | given for name, given in rows if name is None]))
    runs = []
    for name, given in rows:
        settings = _merge_common(common, student | given)
        runs.append(_make_run(path, name or next(generated), settings, reconstructions))
    _check_distinct(path, runs)
    _check_comparable(path, runs)
    return runs


def _merge_common(common: dict[str, Value], given: dict[str, Value]) -> dict[str, Value]:
    """Return the settings of one training; its budget replaces the common budget."""
    has_budget = any(key in given for key in BUDGETS)
    kept = {k: v for k, v in common.items() if not (has_budget and k in BUDGETS)}
    return {**kept, **given}


def _open_all(path: Path, folders: dict[str, Any]) -> dict[str, Reconstruction]:
    """Return the reconstructions by name."""
    for name, folder in folders.items():
        if not _FILE_NAME.fullmatch(name) or not isinstance(folder, str):
            raise MoteError(
                f"{path}: reconstructions: found {shown(name)}: {shown(folder)}, expected a name "
                "of at most 40 letters, digits and .+-_ and a folder"
            )
    if not folders:
        raise MoteError(f"{path}: reconstructions: found none, expected NAME: FOLDER")
    return {name: open_reconstruction(path.parent / folder) for name, folder in folders.items()}


def _combinations(grids: object, where: str) -> list[dict[str, Value]]:
    """Return every combination of each grid's values."""
    grids = grids if isinstance(grids, list) else [grids]
    choices = [
        {key: v if isinstance(v, list) else [v] for key, v in as_settings(grid, where).items()}
        for grid in grids
    ]
    count = sum(math.prod(map(len, grid.values())) for grid in choices)
    if count > _MAX_RUNS:
        raise MoteError(f"{where}: found {count} combinations, expected at most {_MAX_RUNS}")
    return [
        dict(zip(grid, values, strict=True))
        for grid in choices
        for values in itertools.product(*grid.values())
    ]


def _read_rows(
    rows: object, where: str, max_rows: int
) -> list[tuple[str | None, dict[str, Value]]]:
    """Return name and settings of each row."""
    if not isinstance(rows, list):
        raise MoteError(f"{where}: found {shown(rows)}, expected a list")
    if len(rows) > max_rows:
        raise MoteError(f"{where}: found {len(rows)}, expected at most {_MAX_RUNS} trainings")
    named = []
    for i, row in enumerate(rows, 1):
        given = as_settings(row, f"{where}: row {i}")
        name = given.pop("name", None)
        if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise MoteError(
                f"{where}: row {i}: found name {shown(name)}, expected at most 60 letters, "
                "digits, spaces and .,:=+()/-_"
            )
        named.append((name, given))
    return named


def _generate_names(rows: list[dict[str, Value]]) -> list[str]:
    """Return a name for each training: its student, and settings that differ in that family."""
    keys = {key for given in rows for key in given}
    values: dict[tuple[str, str], set[str]] = {}  # by family and key
    for given in rows:
        for key in keys:
            values.setdefault((repr(given["student"]), key), set()).add(repr(given.get(key)))
    names, order = [], {key: i for i, key in enumerate(_KEYS_NAMED_BY_VALUE)}
    for given in rows:
        differing = [key for key in given if len(values[repr(given["student"]), key]) > 1]
        differing.sort(key=lambda key: order.get(key, len(order)))
        names.append(" ".join(_name_part(key, given[key]) for key in ("student", *differing)))
    return names


def _name_part(key: str, value: Value) -> str:
    """Return one setting as a part of a name."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if key == "pretrained" and isinstance(value, str):
        text = Path(value).stem
    return text if key in _KEYS_NAMED_BY_VALUE else f"{key.removeprefix(_AUGMENT)} {text}"


def _make_run(
    path: Path, name: str, given: dict[str, Value], reconstructions: dict[str, Reconstruction]
) -> Run:
    """Return one training; everything that needs no training is checked."""
    where = f"{path}: {name[:60]}"
    only = next(iter(reconstructions)) if len(reconstructions) == 1 else None
    source = given.get("reconstruction", only)
    student = given["student"]
    for key, value, known in (
        ("reconstruction", source, reconstructions),
        ("student", student, FAMILIES),
    ):
        if not isinstance(value, str) or value not in known:
            expected = ", ".join(known)[:100]
            raise MoteError(f"{where}: found {key} {shown(value)}, expected one of {expected}")
    rest = {k: v for k, v in given.items() if k not in ("reconstruction", "student", "epochs")}
    types = training_option_types()
    reconstruction = reconstructions[str(source)]
    try:
        config = _train_config({k: _convert(k, v, types[k]) for k, v in rest.items() if k in types})
        if "epochs" in given:
            config = _with_epochs(config, given["epochs"], reconstruction)
        own = {k: v for k, v in rest.items() if k not in types}
        settings = _student_settings(str(student), own, path.parent)
        held_out = split_frames(reconstruction.poses, config).held_out
    except MoteError as error:
        raise MoteError(f"{where}: {error}") from error
    if not held_out:
        raise MoteError(
            f"{where}: found held_out {config.held_out:g}, expected a fraction that holds out at "
            "least one frame, to compare students on"
        )
    given = {"reconstruction": source, **given}
    config = config.with_loss_for(reconstruction.teacher)
    return Run(name, str(source), reconstruction, str(student), settings, config, given)


def training_option_types() -> dict[str, Any]:
    """Return the types of the options of a training by key, without that of the validation."""
    excluded = ("augment", "validation")
    own = {k: v for k, v in get_type_hints(TrainConfig).items() if k not in excluded}
    return own | {_AUGMENT + k: v for k, v in get_type_hints(AugmentConfig).items()}


def _convert(key: str, value: Value, kind: Any) -> Any:
    """Return a value as its option's type; YAML reads 3e-3, without a point, as text."""
    return convert_value(key, value, kind, from_text=kind is not int)


def _train_config(options: dict[str, Any]) -> TrainConfig:
    """Return a training's configuration from its options by key."""
    augment = {k.removeprefix(_AUGMENT): v for k, v in options.items() if k.startswith(_AUGMENT)}
    own = {k: v for k, v in options.items() if not k.startswith(_AUGMENT)}
    # Students are compared without the help of keyframes and on any device alike, unless the file
    # asks for it.
    return TrainConfig(
        **{"keyframes": 0, "batch": 8, **own}, augment=replace(AugmentConfig(), **augment)
    )


def _with_epochs(config: TrainConfig, epochs: Value, reconstruction: Reconstruction) -> TrainConfig:
    """Return the configuration with the steps of a number of epochs over the training frames."""
    number: float = _convert("epochs", epochs, float)
    training, _ = split_frames(reconstruction.poses, config)
    steps = number * len(training) / config.batch
    if not 1 <= round(min(steps, _MAX_STEPS)) < _MAX_STEPS:
        raise MoteError(
            f"found epochs = {number:g}, expected at least one step of {config.batch} frames and "
            f"less than {_MAX_STEPS:g} steps"
        )
    return replace(config, steps=round(steps))


def _student_settings(student: str, given: dict[str, Value], folder: Path) -> Settings:
    """Return a student's settings; a pretrained file is relative to the ablation's folder."""
    known = [field.name for field in fields(FAMILIES[student][1])]
    if unknown := [key for key in given if key not in known]:
        raise MoteError(
            f"found '{unknown[0][:40]}', expected an option of `mote-distill distill`, epochs, "
            f"reconstruction, student, or a setting of {student}: {', '.join(known)}"
        )
    if isinstance(given.get("pretrained"), str):
        given = {**given, "pretrained": str((folder / str(given["pretrained"])).resolve())}
    return student_settings(student, given)


def _check_distinct(path: Path, runs: list[Run]) -> None:
    """Check that names and trainings are different."""
    names: dict[str, Run] = {}
    keys: dict[str, Run] = {}
    for run in runs:
        other = keys.setdefault(run.key, run)
        if other is not run:
            raise MoteError(
                f"{path}: '{other.name[:60]}' and '{run.name[:60]}' are the same training, "
                "expected each once"
            )
        if names.setdefault(run.name, run) is not run:
            raise MoteError(f"{path}: found two trainings named '{run.name[:60]}', expected one")


def _check_comparable(path: Path, runs: list[Run]) -> None:
    """Check that all trainings on a reconstruction hold out the same frames."""
    firsts: dict[str, Run] = {}
    for run in runs:
        first = firsts.setdefault(run.reconstruction_name, run)
        for key in ("held_out", "held_out_blocks"):
            found, expected = getattr(run.config, key), getattr(first.config, key)
            if found != expected:
                raise MoteError(
                    f"{path}: found {key} {expected:g} of '{first.name[:60]}' and {found:g} of "
                    f"'{run.name[:60]}', expected the same: students are compared on equal frames"
                )
