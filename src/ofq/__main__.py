"""``python -m ofq``: see :mod:`ofq.cli`."""

import sys

from ofq.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
