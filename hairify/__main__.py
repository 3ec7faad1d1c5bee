"""`python -m hairify COMMAND ...`, the same as `hairify COMMAND ...`."""

import sys

from hairify.cli import main

if __name__ == "__main__":
    sys.exit(main())
