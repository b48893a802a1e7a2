"""Settings: declared, read from flags, keywords and recipes, merged once, and recorded."""
