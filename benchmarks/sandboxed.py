"""Part of a benchmark in a sandbox of its own: a value goes in, a value comes back."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ipseclab.emu.sandbox import run_in_sandbox, sandbox_kind
from ipseclab.errors import EnvironmentLacks

ORDER_FILE = "order.json"
FOUND_FILE = "found.json"
EXIT_LACKS = 3


def require_sandbox() -> None:
    """Find out what the machine can do; end here, with one line, when that is not enough."""
    try:
        sandbox_kind()
    except EnvironmentLacks as lack:
        print(lack, file=sys.stderr)
        sys.exit(EXIT_LACKS)


def call_in_sandbox(module: str, order: Any) -> Any:
    """What `module`, run in a sandbox, found; its `main` hands `answer` its work.

    When it fails, its log goes to standard error and the benchmark ends.
    """
    here = str(Path(__file__).resolve().parent)
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, [here, *known])))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder).resolve() / ORDER_FILE
        file.write_text(json.dumps(order), encoding="utf-8")
        code = run_in_sandbox(module, str(file), out=file.parent)
        if code != 0:
            sys.stderr.write((file.parent / "logs" / "worker.log").read_text())
            sys.exit(code)
        return json.loads((file.parent / FOUND_FILE).read_text(encoding="utf-8"))


def ordered() -> bool:
    """True when this process is the part in the sandbox."""
    return len(sys.argv) == 2 and Path(sys.argv[1]).name == ORDER_FILE


def answer(work: Callable[[Any, Path], Any]) -> None:
    """Do the work that was ordered: called with the order and a folder for files."""
    file = Path(sys.argv[1])
    found = work(json.loads(file.read_text(encoding="utf-8")), file.parent)
    (file.parent / FOUND_FILE).write_text(json.dumps(found), encoding="utf-8")
