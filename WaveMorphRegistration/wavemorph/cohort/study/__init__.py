"""A study: every subject registered to one volume, with a record and a row for each."""
