"""`python -m shapegen` is the command `shapegen`."""

import sys

from shapegen.cli import main

if __name__ == "__main__":
    sys.exit(main())
