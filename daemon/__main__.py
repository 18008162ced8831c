"""`python -m tollway.daemon --config PATH` is the daemon's process."""

import sys

from tollway.daemon import early


def main() -> int:
    """Run the daemon until it is told to stop; return its exit code."""
    early.take(looks="--check" in sys.argv)
    from tollway.daemon.run import program  # noqa: PLC0415 - most of the start

    return program()


if __name__ == "__main__":
    sys.exit(main())
