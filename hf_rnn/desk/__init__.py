"""The desk: texts that a person labels on a page, with suggestions by a model."""
