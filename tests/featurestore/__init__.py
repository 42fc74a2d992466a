"""Tests of the store, without any network or video."""
