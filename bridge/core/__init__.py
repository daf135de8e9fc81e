"""The core that all other packages of the bridge stand on: errors, data model, settings, mappings and codecs.

Imports no other package of the bridge.
"""
