"""`python -m benchmarks`. The measures are a module of their own, so that a spawned process can import them."""

from benchmarks.measures import main

main()
