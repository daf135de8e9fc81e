"""Metrics of a running bridge, for a monitor on this machine: counters in Prometheus' format, and health."""
