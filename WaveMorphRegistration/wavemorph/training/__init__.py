"""Training: synthetic data, the paper's data sets, losses, recipes, and a loop that can be stopped and continued."""
