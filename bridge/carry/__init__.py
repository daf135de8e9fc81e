"""The deck between the banks: forward, mirror, whose bytes are these, and refill."""
