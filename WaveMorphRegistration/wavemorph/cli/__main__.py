"""`python -m wavemorph.cli` is the command `wavemorph`."""

import sys

from .main import main

sys.exit(main())
