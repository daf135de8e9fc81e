"""The operator's tools, a folder or a module each. They import everything but the command line."""
