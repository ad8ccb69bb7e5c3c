"""`phenaki reproduce TABLE`: trains what a table of the paper compares, in small, and measures all of it alike."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from phenaki_jax.errors import UserError
from phenaki_jax.reproduce import figure3, prediction, story, table1, table2, table3

# Each has `main`, its SCALES, and CONFIG: a file that has the fields of all its models.
TABLES = {"table1": table1, "table2": table2, "table3": table3, "table4": prediction.TABLE4,
          "table5": prediction.TABLE5, "figure3": figure3, "story": story}


def main(table: str, workdir: str | os.PathLike | None = None, scale: str = "cpu", *,
         overrides: Mapping[str, Any] | None = None, sizes: Any = None) -> int:
    """Trains and measures what is not done yet, and writes report.json, report.md and pictures.

    Args:
      table: one of TABLES.
      workdir: gets data/ and, for each model, a run's folder with its measured.json (default runs/TABLE).
      scale: "cpu" (32 x 32) or "accelerator" (64 x 64), an argument of the configs.
      overrides: {config field: typed value} of all models.
      sizes: the table's Scale, instead of the scale's own.

    Returns:
      0 when all is done; 130 when training was asked to stop (the same call goes on from there).

    Raises:
      UserError: an unknown table or scale, an extra that is not installed, a folder that holds other runs.
    """
    check_known(table, scale)
    program = TABLES[table]
    return program.main(pathlib.Path(workdir or f"runs/{table}"), scale, overrides, sizes or program.SCALES[scale])


def check_known(table: str, scale: str) -> None:
    """Raises: UserError for a table or a scale that is not there."""
    if table not in TABLES:
        raise UserError(f"TABLE={table!r} is unknown; it is one of {', '.join(TABLES)}.")
    if scale not in TABLES[table].SCALES:
        raise UserError(f"--scale={scale!r} is unknown; it is one of {', '.join(TABLES[table].SCALES)}.")
