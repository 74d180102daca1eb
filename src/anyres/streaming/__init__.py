"""Images larger than memory: where their pixels come from, and encoding them piece by piece."""
