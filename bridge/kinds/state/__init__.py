"""The kind of source `state`: files that each hold a latest value, which a Redis hash holds too."""
