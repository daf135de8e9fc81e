"""Surveys a folder before anything is carried: finds logs, infers mappings, checks lines, and previews an import."""
