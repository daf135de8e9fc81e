"""What everything stands on: errors, the model's words, settings, mappings and codecs. Imports nothing of ours."""
