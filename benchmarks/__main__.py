"""`make bench`, and `make plot` with the argument `plot`."""

import sys

from benchmarks import measures, plot

if __name__ == "__main__":
    if sys.argv[1:] == ["plot"]:
        plot.main()
    else:
        measures.main(sys.argv[1:])
