"""A table of all tasks that is kept up to date on the terminal."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distill_training.submaps.executors import Report, State
from distill_training.submaps.tasks import Task

_STYLES: dict[State, str] = {"running": "bold", "done": "green", "failed": "red"}
_MOST_ROWS = 30


class _Rows:
    """The states of all tasks, as rich draws them."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._lock = Lock()
        self._states: dict[str, State] = {task.name: "waiting" for task in tasks}
        self._since: dict[str, float] = {}
        self._took: dict[str, float] = {}

    def set(self, name: str, state: State) -> None:
        """Note a task's new state."""
        with self._lock:
            now = time.monotonic()
            if state == "running":
                self._since.setdefault(name, now)
            elif name in self._since:
                self._took[name] = now - self._since[name]
            self._states[name] = state

    def __rich__(self) -> Table:
        """Return the table; of many tasks, those that run, failed, or come next."""
        with self._lock:
            states, now = dict(self._states), time.monotonic()
            took = {name: now - since for name, since in self._since.items()} | self._took
        count = sum(state == "done" for state in states.values())
        table = Table(title=f"{count} of {len(states)} tasks done", title_justify="left")
        for column in ("task", "state", "time"):
            table.add_column(column, justify="right" if column == "time" else "left")
        order = sorted(states, key=lambda name: states[name] == "done")[:_MOST_ROWS]
        for name in states if len(states) <= _MOST_ROWS else order:
            minutes, seconds = divmod(int(took.get(name, 0)), 60)
            time_text = f"{minutes}:{seconds:02d}" if name in took else ""
            table.add_row(
                Text(name), Text(states[name], _STYLES.get(states[name], "")), Text(time_text)
            )
        return table


@contextmanager
def task_table(tasks: Sequence[Task]) -> Iterator[Report]:
    """Show the table on stderr while the block runs; yield the callback for changes of states."""
    rows, console = _Rows(tasks), Console(stderr=True)
    with Live(rows, console=console, refresh_per_second=2):
        yield rows.set
    if not console.is_terminal:
        console.line()  # rich ends the table without one
