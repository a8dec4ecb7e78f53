"""`mote-distill ablate`: runs a grid of trainings; writes a table, plots and pictures of them."""

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
from mote_localization.errors import MoteError, first_line


@dataclass(frozen=True)
class Ablate:
    """Train a grid of students and compare them; finished trainings are not repeated.

    The YAML file describes the trainings:

        reconstructions: {kitchen: kitchen.reconstruction}
        common: {steps: 3000, held_out: 0.1, margin: 8}
        grid: {student: [cnn, mobilenet, vit], seed: [0, 1]}
        rows: [{name: large, student: cnn, size: l, loss: distill+reprojection}]

    Keys are the options of `mote-distill distill`, the settings of the student's family, `epochs`
    as a third kind of budget, and `reconstruction`, one of the names above.
    """

    config: tyro.conf.Positional[Path]  # description of the trainings (.yaml)
    # folder for trainings, table, plots and pictures; default: NAME.training beside the file
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None
    pictures: int = 4  # held-out images of each reconstruction whose clouds are drawn
    list: tyro.conf.FlagCreatePairsOff[bool] = False  # list the trainings and exit

    def run(self) -> None:
        """Run the trainings that are not finished; write table, plots and pictures."""
        if self.pictures < 0:
            raise MoteError(f"found --pictures {self.pictures}, expected 0 or more")
        output = self.output or self.config.with_suffix(".training")
        if output.exists() and not output.is_dir():
            raise MoteError(f"--output {output}: is a file, expected a folder")
        if processes() > 1:
            raise MoteError(f"found {processes()} processes, expected one; run it without torchrun")
        with training_packages():
            from distill_training.experiments.ablation import trainings
            from distill_training.experiments.ablation.cloud_pictures import write_pictures
            from distill_training.experiments.ablation.grid import read_grid
            from distill_training.experiments.ablation.plots import write_plots
            from distill_training.experiments.ablation.table import write_table
        runs = read_grid(self.config)
        if self.list:
            table = Table("training", "state")
            for run in runs:
                table.add_row(Text(run.name), trainings.training_state(run, output))
            Console().print(table)
            return
        trainings.check_students(runs, output)  # report errors before hours of training
        found = trainings.finished_outcomes(runs, output)
        failed: dict[str, Exception] = {}

        def write_report() -> list[trainings.Outcome]:
            outcomes = [found[run.key] for run in runs if run.key in found]
            command = f"mote-distill ablate {self.config}"
            write_table(outcomes, runs, output, command)
            write_plots(outcomes, output)
            return outcomes

        for i, run in enumerate(runs, 1):
            if run.key not in found:
                say(f"{i} of {len(runs)}: {run.name}")
                try:
                    found[run.key] = trainings.run_training(run, output)
                except (MoteError, RuntimeError, ValueError) as error:  # from torch: out of memory
                    say(f"failed: {error}")
                    failed[run.name] = error
                    continue
                write_report()
        if found:
            write_pictures(write_report(), output / "pictures", self.pictures)
            say(f"{len(found)} of {len(runs)} trainings compared: {output / 'table.md'}")
        if failed:
            name, first = next(iter(failed.items()))
            raise MoteError(
                f"{len(failed)} of {len(runs)} trainings failed; {name[:60]}: "
                f"{first_line(first, 200)}"
            )
