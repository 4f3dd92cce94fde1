"""`python -m wavemorph.cli` is the command `wavemorph`."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
