"""``python -m flows.cli``: the `colinear` command."""

import sys

from flows.cli.main import main

sys.exit(main())
