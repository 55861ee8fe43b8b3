"""`python -m gem3d`: the command line, where its script is not on the path."""

from gem3d.cli import main

if __name__ == "__main__":
    main()
