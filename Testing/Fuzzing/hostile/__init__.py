"""Hostile inputs: valid files made by code, changed at random, and read in child processes that may crash."""
