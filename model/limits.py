"""How large a network that a file describes may be: compared before anything is done with the numbers."""

MOST_STAGES = 12
"""Stages of a model."""
MOST_BLOCKS = 1024
"""Blocks, or convolutions, of all stages."""
MOST_PIXELS = 4096
"""Of an image's side."""
MOST_CHANNELS = 1 << 16
"""Of any layer, and of the image."""
MOST_CLASSES = 1 << 20
"""Of the head."""
MOST_ENTRIES = 1 << 25
"""Entries of all tables of positions and region masks, which follow from the shape and are in no file: 0.2 GB."""
