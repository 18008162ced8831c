"""Programs that tests run, and that not every machine has."""

import os
import shutil

import pytest


def needed(*names: str, package: str = "") -> str:
    """Return the path of a program that has one of these names.

    Where there is none the test is skipped, but never in CI: `.ci/programs` installs them.
    """
    # Not every user's PATH has what root runs.
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    found = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    if found is None:
        why = f"{names[0]} is not installed: apt-get install {package or names[0]}"
        assert not os.environ.get("CI"), why
        pytest.skip(why)
    return found
