"""Wireshark and tshark on a run's capture, with the run's keys.

Both read key tables and preferences from a profile folder. A run gets one of its own, beside its
capture, so that nothing is read from or written to the user's: Qt's settings and caches go there
as well.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ipseclab.errors import ConfigError, Place
from ipseclab.lab.keys import CAPTURE_NAME, ESP_TABLE, IKE_TABLE, KEYS_FOLDER

PROFILE = "wireshark"
PREFERENCES = """\
esp.enable_encryption_decode: TRUE
esp.enable_authentication_check: TRUE
gui.update.enabled: FALSE
"""
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


@dataclass(frozen=True, slots=True)
class CaptureView:
    """A capture and the profile folder to look at it with."""

    capture: Path
    profile: Path

    @property
    def settings(self) -> dict[str, str]:
        """What the environment has to say: where the profile is, and where all else goes."""
        profile = str(self.profile)
        names = ("WIRESHARK_CONFIG_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")
        return dict.fromkeys(names, profile)

    @property
    def wireshark(self) -> list[str]:
        """The command as a shell takes it."""
        words = [f"{name}={value}" for name, value in self.settings.items()]
        return ["env", *words, "wireshark", "-r", str(self.capture)]

    @property
    def tshark(self) -> list[str]:
        """The same for a terminal."""
        profile = f"WIRESHARK_CONFIG_DIR={self.profile}"
        return ["env", profile, "tshark", "-r", str(self.capture), "-O", "isakmp,esp"]


def view_of_run(run: Path) -> CaptureView:
    """Make a run's profile folder, its keys as they stand now. Raises ConfigError."""
    capture = run / CAPTURE_NAME
    if not capture.is_file():
        raise ConfigError("there is no such file: the run kept no capture", Place(str(capture)))
    profile = run / PROFILE
    try:
        profile.mkdir(exist_ok=True)
        (profile / "preferences").write_text(PREFERENCES, encoding="ascii")
        for table in (IKE_TABLE, ESP_TABLE):
            keys = run / KEYS_FOLDER / table
            if keys.is_file():
                shutil.copyfile(keys, profile / table)
    except OSError as problem:
        raise ConfigError(f"cannot be written: {problem.strerror}", Place(str(profile))) from None
    return CaptureView(capture.absolute(), profile.absolute())


def has_display() -> bool:
    """Whether a window could be opened."""
    return any(os.environ.get(name) for name in DISPLAYS)


def start(view: CaptureView) -> str | None:
    """Start Wireshark, and leave it to the user; what is missing where that cannot be."""
    program = shutil.which("wireshark")
    if program is None:
        return "Wireshark is not installed"
    if not has_display():
        return "there is no display"
    silent = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    command = [program, "-r", str(view.capture)]
    # In a session of its own: it outlives the shell's terminal, and its Ctrl-C.
    os.posix_spawn(
        program, command, {**os.environ, **view.settings}, file_actions=silent, setsid=True
    )
    return None
