"""The folder that an extraction fills: written a part at a time, opened lazily, searched."""
