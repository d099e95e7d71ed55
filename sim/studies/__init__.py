"""The paper's studies, each a command that writes a table (CSV, Markdown) and a figure (SVG): `python -m sim.studies NAME`."""
