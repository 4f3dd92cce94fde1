"""The command line; `python -m wavemorph.cli` is the command `wavemorph`."""
