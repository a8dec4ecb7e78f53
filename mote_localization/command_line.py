"""What both command lines have in common: parsing, one-line errors, output on the terminal."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from mote_localization.errors import MoteError

Flat = tyro.conf.arg(name="")  # annotates a dataclass: its fields become flags of the command
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]

_INTERRUPTED = 130  # exit status after SIGINT, as shells expect it
_BROKEN_PIPE = 141  # after SIGPIPE


def run_command(commands: dict[str, Any], program: str, description: str) -> None:
    """Run the subcommand named on the command line; exit with 1 after a `MoteError`.

    Args:
        commands: For each subcommand its name and a frozen dataclass of its options, whose `run`
            does the work.
        program: Name of the program.
        description: What the program does, one line.
    """
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    with one_line_errors():
        tyro.extras.subcommand_cli_from_dict(commands, prog=program, description=description).run()


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit with 1 and one line on stderr after a `MoteError` or an error of a file.

    Exit with 130 when interrupted, and with 141 when nobody reads stdout any more, as of `| head`.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout:  # None: closed by the shell
                sys.stdout.flush()  # at the end of the interpreter, its error would be a traceback
    except MoteError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        _discard_stdout()
        sys.exit(_BROKEN_PIPE)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # of rich, which exits with 1
            sys.exit(_BROKEN_PIPE)
        raise
    except OSError as error:  # such as of names that are too long, and of a full disk
        _discard_stdout()
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {MoteError(f'{where}{error.strerror or error}')}")


def _discard_stdout() -> None:
    """Send what is not yet printed nowhere, so that it causes no further error."""
    if sys.stdout:
        with suppress(OSError, ValueError):  # a stdout that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Print a text on stderr unchanged: without markup, without line breaks."""
    Console(stderr=True).print(text, highlight=False, soft_wrap=True, markup=False)


def print_table(described: dict[str, str], title: str = "", stderr: bool = False) -> None:
    """Print names and values as a table; square brackets are not taken for markup."""
    table = Table(show_header=False, title=Text(title) if title else None, title_justify="left")
    for name, value in described.items():
        table.add_row(Text(name), Text(value))
    Console(stderr=stderr).print(table)
