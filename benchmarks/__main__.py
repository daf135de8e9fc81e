"""`make bench`, and `make plot` with the argument `plot`."""

import sys

from benchmarks import measures, plot

if __name__ == "__main__":
    if sys.argv[1:2] == ["plot"]:
        plot.main(sys.argv[2:])
    else:
        measures.main(sys.argv[1:])
