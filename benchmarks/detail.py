"""How far the set *detail* is learned at its largest training size, and what resizing leaves of it.

    python benchmarks/detail.py [--work detail-study] [--out benchmarks/results/detail.json]

About a quarter of an hour on one core. The run can be stopped and goes on where it was.
"""

import argparse
import shutil
from pathlib import Path

from anyres.recipes import learn_detail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("detail-study"), help="folder for data and run")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "detail.json")
    options = parser.parse_args()
    found = learn_detail(options.work)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(found, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
