"""What an ablation trains: grids and rows of settings in a YAML file, checked before any training.

    reconstructions:            # name -> folder, from the file's own folder
      kitchen: kitchen.training/reconstruction
    common: {steps: 3000}       # of all trainings
    grid: {student: [cnn, vit]} # every combination; several grids as a list
    rows: [{name: large, student: cnn, size: l}]

A key is an option of a training (`augment.zoom` as on the command line), a setting of the student's
family, `student`, `reconstruction`, or `epochs`.
"""

import itertools
import math
import re
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from distill_training.common.renamed_options import refuse_renamed
from distill_training.reconstruction import Reconstruction, open_reconstruction
from distill_training.students import FAMILIES
from distill_training.students.settings import Settings, student_settings
from distill_training.training.augmentation import AugmentConfig
from distill_training.training.frame_split import split_frames
from distill_training.training.identity import training_identity
from distill_training.training.train_config import TrainConfig
from mote_localization.errors import MoteError

_MOST_BYTES = 1 << 20
_MOST_DEPTH = 8  # of lists and mappings in each other
_MOST_RUNS = 1000
_MOST_TEXT = 4096
_MOST_STEPS = 10**9
_PLAIN = re.compile(r"[\w.+-]{1,40}")  # names that become files'
_NAME = re.compile(r"[\w .,:=+()/-]{1,60}")
_BUDGETS = ("epochs", "steps", "minutes")
_AUGMENT = "augment."
_TELLING = ("student", "size", "variant", "reconstruction", "loss")  # whose values need no key

Value = str | int | float | bool | None | list  # lists: pairs of numbers


@dataclass(frozen=True)
class Run:
    """One training of an ablation."""

    name: str  # tells it from the others
    source: str  # name of its reconstruction
    reconstruction: Reconstruction
    student: str
    settings: Settings  # of the student
    config: TrainConfig
    said: dict[str, Value]  # what the file says of it, by key

    @cached_property
    def key(self) -> str:
        """Ten letters that change with whatever decides what is learned; see `train`."""
        identity = training_identity(self.reconstruction, self.student, self.settings, self.config)
        return identity[:10]

    def value(self, key: str) -> Value:
        """Return what a key is for this training, said or not; None where it is of no matter."""
        if key in self.said:
            return self.said[key]
        if key in _BUDGETS:
            return None  # another was said
        if key in _train_kinds():
            holder = self.config.augment if key.startswith(_AUGMENT) else self.config
            value = getattr(holder, key.removeprefix(_AUGMENT))
            return list(value) if isinstance(value, tuple) else value
        return getattr(FAMILIES[self.student][1](), key, None)

    @property
    def folder_name(self) -> str:
        """Name of its folder, readable, one of its kind."""
        return f"{re.sub(r'[^a-zA-Z0-9.+-]+', '-', self.name)[:100]}-{self.key}"


def read_grid(path: Path) -> list[Run]:
    """Read which trainings a file asks for, rows after grids, in its order.

    Raises:
        MoteError: The file cannot be read, or asks for what cannot be trained or compared.
        ReconstructionError: A reconstruction cannot be used.
        CheckpointError: A pretrained file cannot be read.
    """
    content = _mapping(_read_yaml(path), f"{path}")
    known = ("reconstructions", "common", "grid", "rows")
    if unknown := [key for key in content if key not in known]:
        raise MoteError(f"{path}: found '{unknown[0]}', expected {', '.join(known)}")
    common = _layer(content.get("common", {}), f"{path}: common")
    sources = _open(path, _mapping(content.get("reconstructions"), f"{path}: reconstructions"))
    own: list[tuple[str | None, dict[str, Value]]] = []
    own += [(None, said) for said in _combinations(content.get("grid", []), f"{path}: grid")]
    own += _rows(content.get("rows", []), f"{path}: rows", _MOST_RUNS - len(own))
    if not own:
        raise MoteError(f"{path}: found neither grid nor rows, expected one at least")
    student = {"student": common.get("student", "cnn")}
    made = iter(_names([student | said for name, said in own if name is None]))
    runs = [
        _run(path, name or next(made), _over(common, student | said), sources) for name, said in own
    ]
    _check_apart(path, runs)
    return runs


def _read_yaml(path: Path) -> object:
    """Return the file's content, plain values alone."""
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise MoteError(f"{path}: cannot be read ({error.strerror})") from error
    if len(text) > _MOST_BYTES:
        raise MoteError(f"{path}: is larger than {_MOST_BYTES >> 20} MiB, expected a short file")
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            # Aliases of aliases can unfold to more than memory holds, deep lists take for ever.
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > _MOST_DEPTH:
                raise MoteError(
                    f"{path}: found an alias (*name) or more "
                    f"than {_MOST_DEPTH} levels of lists, expected values written out"
                )
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise MoteError(f"{path}{line}: is no YAML text ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    problem = getattr(error, "problem", None) or str(error) or type(error).__name__
    return str(problem).splitlines()[0][:100]


def _mapping(value: object, where: str) -> dict[str, Any]:
    """Return a mapping whose keys are text, hyphens as underscores."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise MoteError(f"{where}: found {_shown(value)}, expected keys and values")
    return value


def _layer(value: object, where: str) -> dict[str, Value]:
    """Return settings by key; the budget is said in one way."""
    said = {key.replace("-", "_"): v for key, v in _mapping(value, where).items()}
    refuse_renamed(said)
    for key, one in said.items():
        _check_plain(one, f"{where}: {key[:40]}")
    budgets = [key for key in _BUDGETS if key in said]
    if len(budgets) > 1:
        raise MoteError(f"{where}: found {' and '.join(budgets)}, expected one of them")
    return said


def _check_plain(value: object, where: str, depth: int = 2) -> None:
    """Refuse values that nothing here takes, before they are shown or compared."""
    if isinstance(value, list) and depth:
        if not value:
            raise MoteError(f"{where}: found an empty list, expected a value at least")
        for one in value:
            _check_plain(one, where, depth - 1)
    elif isinstance(value, str | int) and _most(value):
        raise MoteError(f"{where}: found a value that is too long, expected a short one")
    elif not isinstance(value, str | int | float | None):
        raise MoteError(
            f"{where}: found {_shown(value)}, expected text, a number, or a list of them"
        )


def _most(value: str | int) -> bool:
    return len(value) > _MOST_TEXT if isinstance(value, str) else abs(value) >= 1 << 63


def _over(common: dict[str, Value], said: dict[str, Value]) -> dict[str, Value]:
    """Return the settings of one training; another budget takes the place of the common one."""
    other = any(key in said for key in _BUDGETS)
    kept = {k: v for k, v in common.items() if not (other and k in _BUDGETS)}
    return {**kept, **said}


def _open(path: Path, folders: dict[str, Any]) -> dict[str, Reconstruction]:
    """Open the reconstructions."""
    for name, folder in folders.items():
        if not _PLAIN.fullmatch(name) or not isinstance(folder, str):
            raise MoteError(
                f"{path}: reconstructions: found {_shown(name)}: {_shown(folder)}, expected a name "
                "of at most 40 letters, digits and .+-_ and a folder"
            )
    if not folders:
        raise MoteError(f"{path}: reconstructions: found none, expected NAME: FOLDER")
    return {name: open_reconstruction(path.parent / folder) for name, folder in folders.items()}


def _combinations(grids: object, where: str) -> list[dict[str, Value]]:
    """Return every combination of each grid's values."""
    grids = grids if isinstance(grids, list) else [grids]
    choices = [
        {key: v if isinstance(v, list) else [v] for key, v in _layer(grid, where).items()}
        for grid in grids
    ]
    count = sum(math.prod(map(len, grid.values())) for grid in choices)
    if count > _MOST_RUNS:
        raise MoteError(f"{where}: found {count} combinations, expected at most {_MOST_RUNS}")
    return [
        dict(zip(grid, values, strict=True))
        for grid in choices
        for values in itertools.product(*grid.values())
    ]


def _rows(rows: object, where: str, most: int) -> list[tuple[str | None, dict[str, Value]]]:
    """Return name and settings of each row."""
    if not isinstance(rows, list):
        raise MoteError(f"{where}: found {_shown(rows)}, expected a list")
    if len(rows) > most:
        raise MoteError(f"{where}: found {len(rows)}, expected at most {_MOST_RUNS} trainings")
    named = []
    for i, row in enumerate(rows, 1):
        said = _layer(row, f"{where}: row {i}")
        name = said.pop("name", None)
        if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise MoteError(
                f"{where}: row {i}: found name {_shown(name)}, expected at most 60 letters, "
                "digits, spaces and .,:=+()/-_"
            )
        named.append((name, said))
    return named


def _names(rows: list[dict[str, Value]]) -> list[str]:
    """Return for each training its student, and what tells it from others of that family."""
    keys = {key for said in rows for key in said}
    values: dict[tuple[str, str], set[str]] = {}  # of a family and a key
    for said in rows:
        for key in keys:
            values.setdefault((repr(said["student"]), key), set()).add(repr(said.get(key)))
    names = []
    for said in rows:
        telling = [key for key in said if len(values[repr(said["student"]), key]) > 1]
        # What a student is comes before how it is trained.
        telling.sort(key=lambda key: _TELLING.index(key) if key in _TELLING else len(_TELLING))
        names.append(" ".join(_part(key, said[key]) for key in ("student", *telling)))
    return names


def _part(key: str, value: Value) -> str:
    """Return one setting as a piece of a name."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if key == "pretrained" and isinstance(value, str):
        text = Path(value).stem
    return text if key in _TELLING else f"{key.removeprefix(_AUGMENT)} {text}"


def _run(path: Path, name: str, said: dict[str, Value], sources: dict[str, Reconstruction]) -> Run:
    """Return one training, everything of it checked that needs no training."""
    where = f"{path}: {name[:60]}"
    only = next(iter(sources)) if len(sources) == 1 else None
    source = said.get("reconstruction", only)
    student = said["student"]
    if not isinstance(source, str) or source not in sources:
        raise MoteError(
            f"{where}: found reconstruction {_shown(source)}, expected one of {', '.join(sources)}"
        )
    if not isinstance(student, str) or student not in FAMILIES:
        raise MoteError(
            f"{where}: found student {_shown(student)}, expected one of {', '.join(FAMILIES)}"
        )
    rest = {k: v for k, v in said.items() if k not in ("reconstruction", "student", "epochs")}
    kinds = _train_kinds()
    trained = {k: _converted(v, kinds[k], f"{where}: {k}") for k, v in rest.items() if k in kinds}
    given = {k: v for k, v in rest.items() if k not in kinds}
    try:
        config = _config(trained)
        if "epochs" in said:
            config = _for_epochs(config, said["epochs"], sources[source])
        settings = _settings(student, given, path.parent)
        held_out = split_frames(sources[source].poses, config).held_out
    except MoteError as error:
        raise MoteError(f"{where}: {error}") from error
    if not held_out:
        raise MoteError(
            f"{where}: found held_out {config.held_out:g}, expected a share to compare students on"
        )
    said = {"reconstruction": source, **said}
    return Run(name, source, sources[source], student, settings, config, said)


def _train_kinds() -> dict[str, Any]:
    """Return the type of each option of a training, by key; calibration changes no comparison."""
    left_out = ("augment", "calibration_from")
    own = {k: v for k, v in get_type_hints(TrainConfig).items() if k not in left_out}
    return own | {_AUGMENT + k: v for k, v in get_type_hints(AugmentConfig).items()}


def _config(trained: dict[str, Any]) -> TrainConfig:
    augment = {k.removeprefix(_AUGMENT): v for k, v in trained.items() if k.startswith(_AUGMENT)}
    own = {k: v for k, v in trained.items() if not k.startswith(_AUGMENT)}
    return TrainConfig(**own, augment=replace(AugmentConfig(), **augment))


def _for_epochs(config: TrainConfig, epochs: Value, reconstruction: Reconstruction) -> TrainConfig:
    """Return the training with as many steps as see every training frame so often."""
    times: float = _converted(epochs, float, "epochs")
    training, _ = split_frames(reconstruction.poses, config)
    steps = times * len(training) / config.batch
    if not 1 <= round(min(steps, _MOST_STEPS)) < _MOST_STEPS:
        raise MoteError(
            f"epochs: found {times:g}, expected enough for a step of {config.batch}, and less than "
            f"{_MOST_STEPS:g} steps"
        )
    return replace(config, steps=round(steps))


def _settings(student: str, given: dict[str, Value], folder: Path) -> Settings:
    """Return a student's settings; a pretrained file lies where the ablation's own does."""
    known = [field.name for field in fields(FAMILIES[student][1])]
    if unknown := [key for key in given if key not in known]:
        raise MoteError(
            f"found '{unknown[0]}', expected an option of a training (see `mote-distill distill "
            f"--help`), epochs, reconstruction, student, or a setting of {student}: "
            f"{', '.join(known)}"
        )
    if isinstance(given.get("pretrained"), str):
        given = {**given, "pretrained": str((folder / str(given["pretrained"])).resolve())}
    return student_settings(student, given)


def _converted(value: object, kind: Any, where: str) -> Any:
    """Return a value as its field holds it.

    Raises:
        MoteError: It is of another type.
    """
    if isinstance(kind, UnionType) and type(None) in get_args(kind):
        if value is None:
            return None
        (kind,) = (one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is Literal:
        if isinstance(value, str) and value in get_args(kind):
            return value
        raise MoteError(f"{where}: found {_shown(value)}, expected {' or '.join(get_args(kind))}")
    if get_origin(kind) is tuple:
        if isinstance(value, list) and len(value) == len(get_args(kind)):
            kinds = get_args(kind)
            return tuple(_converted(v, one, where) for v, one in zip(value, kinds, strict=True))
        raise MoteError(f"{where}: found {_shown(value)}, expected {len(get_args(kind))} numbers")
    if kind is float:
        # YAML takes 3e-3, without a point, for text.
        if type(value) in (int, float, str):
            try:
                number = float(value)  # type: ignore[arg-type]
            except (ValueError, OverflowError):
                number = math.nan
            if math.isfinite(number):
                return number
        raise MoteError(f"{where}: found {_shown(value)}, expected a number")
    if type(value) is not kind:
        expected = {int: "a whole number", bool: "true or false", str: "text"}
        raise MoteError(f"{where}: found {_shown(value)}, expected {expected.get(kind, kind)}")
    return value


def _shown(value: object) -> str:
    """Return a value for a message, however long or deep it is."""
    if isinstance(value, dict | list):
        return f"{'keys and values' if isinstance(value, dict) else 'a list'} ({len(value)})"
    if value is None:
        return "nothing"
    if isinstance(value, int) and _most(value):
        return "a long number"
    return repr(value[:40] if isinstance(value, str) else value)[:60]


def _check_apart(path: Path, runs: list[Run]) -> None:
    """Refuse trainings that cannot be told apart or not be compared."""
    names: dict[str, Run] = {}
    keys: dict[str, Run] = {}
    shares: dict[str, Run] = {}
    for run in runs:
        if other := keys.setdefault(run.key, run):
            if other is not run:
                raise MoteError(
                    f"{path}: '{other.name}' and '{run.name}' are the same training, expected each "
                    "once"
                )
        if names.setdefault(run.name, run) is not run:
            raise MoteError(f"{path}: found two trainings named '{run.name}', expected one")
        first = shares.setdefault(run.source, run)
        for key in ("held_out", "held_out_blocks"):
            found, other = getattr(run.config, key), getattr(first.config, key)
            if found != other:
                raise MoteError(
                    f"{path}: found {key} {other:g} of '{first.name}' and {found:g} of "
                    f"'{run.name}', expected one for all: they are compared on the same frames"
                )
