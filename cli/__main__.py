"""`python -m tollway.cli` is `tollway`."""

from tollway.cli.early import take_signals
from tollway.cli.streams import open_closed


def main() -> None:
    """Run the program on the process's arguments; never returns."""
    take_signals()
    open_closed()
    from tollway.cli.app import main as program  # noqa: PLC0415 - it may be interrupted

    program()


if __name__ == "__main__":
    main()
