"""``python -m ofq``: see :mod:`ofq.cli.main`."""

import sys

from ofq.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
