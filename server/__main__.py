"""`python -m server`: the same as `crosstalk`."""

import sys

from server.cli import main

sys.exit(main())
