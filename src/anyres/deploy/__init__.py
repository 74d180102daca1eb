"""Models at work on files."""
