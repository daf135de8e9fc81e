"""Holds the five kinds of sources, one folder each: log, spool, state, artifacts, context.

Only this package asks which kind a mapping has.
"""
