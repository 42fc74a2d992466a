"""How features are made: frames, crops, networks, and the Dask jobs that run them.

Kept empty on purpose: `fs-submit --help` and `fs-submit status` go through this file and must not
pay for torch. Whatever needs torch imports it in its own module.
"""
