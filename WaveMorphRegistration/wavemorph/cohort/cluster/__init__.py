"""The processes that work on many subjects: how many, how they are started, and what one of them does, with Dask."""
