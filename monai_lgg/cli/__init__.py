"""The ``monai-lgg`` command. Thin: each command calls one function of the library.

Nothing here imports torch or monai at module level, so that ``--help`` answers at once.

Exit codes: 0 done; 1 an error, or findings / failed cases that need attention; 2 wrong usage; 130 interrupted.
"""

import click

from monai_lgg import __version__
from monai_lgg.cli.board import board
from monai_lgg.cli.compare import compare, crossval, tune
from monai_lgg.cli.data import data
from monai_lgg.cli.export import export
from monai_lgg.cli.label import label
from monai_lgg.cli.options import ErrorGroup
from monai_lgg.cli.report import explore, report
from monai_lgg.cli.run import demo, evaluate, predict, train
from monai_lgg.cli.shape import shape


@click.group(cls=ErrorGroup)
@click.version_option(__version__)
def main() -> None:
    """Segment lower-grade glioma in brain MRI with MONAI bundles. Research use only.

    The journey: data -> train -> evaluate -> predict -> compare -> report. Exit codes: 0 done, 1 error or failed
    cases, 2 wrong usage, 130 interrupted.
    """


data.add_command(explore)
for command in (data, train, board, evaluate, predict, label, export, compare, crossval, tune, report, shape, demo):
    main.add_command(command)
