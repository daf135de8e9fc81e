"""What a running bridge tells a monitor, on this machine alone: counters as Prometheus reads them, and its health."""
