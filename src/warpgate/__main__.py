"""`python -m warpgate`: the same as the `warpgate` command."""

import sys

from warpgate.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
