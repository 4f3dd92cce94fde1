"""The commands for more than one pair, one file a command."""
