"""The command `wavemorph`, also started by `python -m wavemorph.cli`."""
