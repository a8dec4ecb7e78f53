"""`mote-distill ablate`: a grid of trainings, one table, plots and pictures of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_training.common.dependencies import training_packages
from distill_training.common.processes import processes
from mote_localization.command_line import say
from mote_localization.errors import MoteError


@dataclass(frozen=True)
class Ablate:
    """Train a grid of students and compare them; what is finished is not trained again.

    The file says what to train:

        reconstructions: {kitchen: kitchen.training/reconstruction}
        common: {steps: 3000, held_out: 0.1, margin: 8}
        grid: {student: [cnn, mobilenet, vit], seed: [0, 1]}
        rows: [{name: large, student: cnn, size: l, loss: distill+reprojection}]

    Its keys are the options of `mote-distill distill`, settings of the student's family, `epochs`
    as another budget, and `reconstruction`, one of those named.
    """

    config: tyro.conf.Positional[Path]  # what to train (.yaml)
    # folder for trainings, table, plots and pictures; default: beside the file, NAME.training
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None
    pictures: int = 4  # held-out images of each reconstruction on which clouds are drawn
    list: tyro.conf.FlagCreatePairsOff[bool] = False  # say what there is to train, and leave

    def run(self) -> None:
        """Train what is not finished; write table, plots and pictures.

        Raises:
            MoteError: The file or a reconstruction cannot be used, torch is missing, a file cannot
                be written, or a training failed; the others are finished first.
        """
        if self.pictures < 0:
            raise MoteError(f"found --pictures {self.pictures}, expected 0 or more")
        output = self.output or self.config.with_suffix(".training")
        if output.exists() and not output.is_dir():
            raise MoteError(f"--output {output}: is a file, expected a folder")
        if processes() > 1:
            raise MoteError(f"found {processes()} processes, expected one: run it without torchrun")
        with training_packages():
            from distill_training.ablation import cloud_pictures as pictures
            from distill_training.ablation import plots, table, trainings
            from distill_training.ablation.grid import read_grid
        runs = read_grid(self.config)
        if self.list:
            _print_list({run.name: trainings.state(run, output) for run in runs})
            return
        # What cannot be built is said before the first of many hours.
        trainings.check(runs, output)
        found = trainings.finished(runs, output)
        failed: dict[str, Exception] = {}

        def report() -> list[trainings.Outcome]:
            outcomes = [found[run.key] for run in runs if run.key in found]
            command = f"mote-distill ablate {self.config}"
            table.write_table(outcomes, runs, output, command)
            plots.write_plots(outcomes, output)
            return outcomes

        for i, run in enumerate(runs, 1):
            if run.key not in found:
                say(f"{i} of {len(runs)}: {run.name}")
                try:
                    found[run.key] = trainings.do(run, output)
                except (MoteError, RuntimeError, ValueError) as error:  # torch's: no memory
                    say(f"failed: {error}")
                    failed[run.name] = error
                    continue
                report()
        if found:
            pictures.write_pictures(report(), output / "pictures", self.pictures)
            say(f"{len(found)} of {len(runs)} trainings compared: {output / 'table.md'}")
        if failed:
            name, first = next(iter(failed.items()))
            first_line = (str(first) or type(first).__name__).splitlines()[0]
            raise MoteError(f"{len(failed)} of {len(runs)} trainings failed; {name}: {first_line}")


def _print_list(states: dict[str, str]) -> None:
    """Print each training and how far it is."""
    shown = Table("training", "state", title_justify="left")
    for name, how_far in states.items():
        shown.add_row(Text(name), how_far)
    Console().print(shown)
