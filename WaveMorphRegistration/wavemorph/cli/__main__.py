"""`python -m wavemorph.cli` is the command `wavemorph`."""

from .main import program

if __name__ == "__main__":
    program()
