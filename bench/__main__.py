"""python -m bench"""

import sys

from bench.environment import restart_limited

if __name__ == "__main__":
    restart_limited(sys.argv[1:])
    from bench.cli import main

    sys.exit(main(sys.argv[1:]))
