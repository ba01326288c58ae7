"""`python -m zoo`: the command line of this interpreter, wherever its programs are."""

from zoo.cli import main

if __name__ == "__main__":
    main()
