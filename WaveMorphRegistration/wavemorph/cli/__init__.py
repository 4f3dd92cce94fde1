"""The command line; `python -m wavemorph.cli.main` is the command `wavemorph`."""
