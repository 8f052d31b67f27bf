"""What the proofs share: the folder's helpers importable, skips that say why."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from ipseclab.emu.peers import strongswan
from ipseclab.emu.sandbox import capabilities
from ipseclab.errors import EnvironmentLacks

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(autouse=True)
def _what_it_needs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip a marked test where the machine lacks what it is about (a failure in CI)."""
    marked = request.node.get_closest_marker
    if marked("netns") is not None:
        for check in capabilities():
            if not check.ok:
                pytest.skip(f"{check.name}: {check.detail}; {check.remedy}")
    if marked("strongswan") is not None:
        try:
            strongswan.version()
        except EnvironmentLacks as lacks:
            pytest.skip(str(lacks))
    if marked("tshark") is not None and shutil.which("tshark") is None:
        pytest.skip("no tshark: apt-get install tshark")
    # What a proof starts in a sandbox has the helpers too, and the package that is tested here.
    folders = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
