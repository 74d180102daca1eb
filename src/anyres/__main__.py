"""`python -m anyres`, as launchers want it: `torchrun --nproc-per-node 8 -m anyres train ...`."""

import sys

from anyres.cli import main

if __name__ == "__main__":
    sys.exit(main())
