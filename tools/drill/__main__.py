"""``python -m tools.drill``: see the package."""

import argparse
import secrets
import sys
from pathlib import Path

import tools.drill
from ofq.errors import UserError
from tools.drill.main import drill


def main(argv: list[str]) -> int:
    """Run the drill; 0 where everything agrees, 1 where something differs, 2 for a mistake of the caller's."""
    parser = argparse.ArgumentParser("python -m tools.drill", description=tools.drill.__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--seed", type=int, help="of the random choices; drawn and printed where it is left out")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="run in this new directory and leave it, logs included"
    )
    arguments = parser.parse_args(argv)
    seed = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
    try:
        return 0 if drill(arguments.kills, seed=seed, keep=arguments.keep) else 1
    except UserError as error:
        print(f"ofq: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
