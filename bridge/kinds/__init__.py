"""The five kinds of sources, a folder each: the only place that asks for the kind of a mapping."""
