"""Which subjects are held out where a data set does not say so itself. IXI says it: Train/, Val/, Test/."""

# Learn2Reg's OASIS: subjects 438 to 457, each fixed once against the next (pairs_val.csv)
OASIS_VALIDATION_PAIRS = tuple((number, number + 1) for number in range(438, 457))
