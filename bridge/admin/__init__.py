"""The operator's tools for administration, a folder or a module each, such as doctor, repair, retire and survey.

They may import every other package of the bridge but the command line, `bridge.cli`.
"""
