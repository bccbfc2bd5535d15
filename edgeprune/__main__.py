"""`python -m edgeprune`, and the console script."""

from edgeprune import interrupt


def main() -> None:
    """Run the command line; before it can be imported, Ctrl-C is one line already."""
    interrupt.end_at_once()
    from edgeprune.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
