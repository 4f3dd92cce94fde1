"""Training: synthetic anatomy and the paper's data sets, losses, and a loop that stops and goes on. numpy and torch."""
