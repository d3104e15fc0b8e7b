"""`python -m optishear` is the command line."""

from optishear.cli import main


if __name__ == "__main__":
    main()
