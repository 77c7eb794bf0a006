"""``python -m clustrix``: the command line."""

from clustrix.cli import main

if __name__ == "__main__":
    main()
