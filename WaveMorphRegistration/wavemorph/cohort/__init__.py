"""Many subjects: cohorts, templates, longitudinal studies and morphometry, on Dask where there are more processes."""
