"""Subjects that are held out of training where the data set itself does not define them, as IXI does by folders."""

# Learn2Reg's OASIS: subjects 438 to 457, each fixed once against the next (pairs_val.csv)
OASIS_VALIDATION_PAIRS = tuple((number, number + 1) for number in range(438, 457))
