"""TIFF files: what their header says, what their samples mean, and reading them in parts or whole."""
