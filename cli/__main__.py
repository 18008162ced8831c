"""`python -m tollway.cli` is `tollway`."""

from tollway.cli.early import take_signals


def main() -> None:
    """Run the program on the process's arguments; never returns."""
    take_signals()
    from tollway.cli.app import main as program  # noqa: PLC0415 - it may be interrupted

    program()


if __name__ == "__main__":
    main()
