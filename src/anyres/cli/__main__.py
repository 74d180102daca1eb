"""`python -m anyres.cli` is `anyres`."""

import sys

from anyres.cli import main

if __name__ == "__main__":
    sys.exit(main())
