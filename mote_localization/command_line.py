"""How both command lines run: parse, do, print, and one line where the input is at fault."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from mote_localization.errors import MoteError

_INTERRUPTED = 130  # what shells expect after SIGINT


def run_command(commands: dict[str, Any], program: str, description: str) -> None:
    """Run the subcommand that the command line names; leave with 1 where its input is at fault.

    Args:
        commands: Name of each subcommand and its frozen dataclass, whose `run` does the work.
        program: Name of the program.
        description: What it is for, one line.
    """
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    with one_line_errors():
        tyro.extras.subcommand_cli_from_dict(commands, prog=program, description=description).run()


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Leave with 1 and one line where the input is at fault; quietly when interrupted."""
    try:
        yield
    except MoteError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def say(text: str) -> None:
    """Print a text on stderr as it is: markup and lines longer than the terminal's too."""
    Console(stderr=True).print(text, highlight=False, soft_wrap=True, markup=False)


def print_table(described: dict[str, str], title: str = "", stderr: bool = False) -> None:
    """Print names and values as a table, whatever characters they are of."""
    table = Table(show_header=False, title=Text(title) if title else None, title_justify="left")
    for name, value in described.items():
        table.add_row(Text(name), Text(value))
    Console(stderr=stderr).print(table)
