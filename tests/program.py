"""Runs the real `tollway` in a home of its own, and stops what it started."""

import os
import subprocess
import sys
from pathlib import Path

NO_KEYRING = "keyring.backends.fail.Keyring"


class Home:
    """A person's home folder with nothing of the test's own environment in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / ".config/tollway/gateway.toml"
        self.data = path / ".local/share/tollway"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(path),
            # No test may write to the keyring of whoever runs it.
            "PYTHON_KEYRING_BACKEND": NO_KEYRING,
        }

    def write(self, text: str) -> None:
        """Write gateway.toml."""
        self.config.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.config.write_text(text)
        self.config.chmod(0o600)

    def tollway(self, *words: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Run the program and return what it said."""
        return subprocess.run(
            [sys.executable, "-m", "tollway.cli", *words],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.path,
            env={**self.env, **env},
            timeout=100,
        )
