"""A place for what Matplotlib writes when it is imported: its settings folder and its list of
fonts, which go to the user's home otherwise. The lab leaves nothing outside a results folder."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SETTING = "MPLCONFIGDIR"
FOLDER = ".matplotlib"


@contextmanager
def matplotlib_home(results: Path) -> Iterator[None]:
    """Meanwhile an import of Matplotlib writes into `results`; afterwards that is gone again.

    A user's own `MPLCONFIGDIR` is left to do its work. What is killed here leaves a folder among
    the results, which the next time takes away.
    """
    if SETTING in os.environ or "matplotlib" in sys.modules or not results.is_dir():
        yield
        return
    folder = results / FOLDER
    os.environ[SETTING] = str(folder)
    try:
        yield
    finally:
        del os.environ[SETTING]
        shutil.rmtree(folder, ignore_errors=True)
