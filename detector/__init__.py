"""Distributions of normal and abnormal videos, fitted to a store's features; scores, evaluation.

Knows numpy, scipy, dask and xarray; never torch, never the command line.
"""
