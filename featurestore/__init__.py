"""What a store of video features is: one Zarr v3 group a dataset.

`schema` names the nine arrays, `clips` turns frames into clips, `store` creates, opens, grows
and commits a store, `blocks` writes features into it, `catalog` is its table of videos, `fused`
the arrays made of other arrays' chunks, `lock` keeps two writers apart. `labels` is what is known
of videos, `splits` who trains and who tests, `labelled` keeps both in a store, `align` pairs scores
of clips with frames. `exchange` takes features in that others made, `export` writes ours for them.
A store may also lie on an object store: `place` is a path there, `chunks` writes features to it,
`objectlock` is its lock, `objects` brings stores there and back.

Knows zarr, xarray and numpy; never torch, decoders or Dask. A reader needs none of it:
`xarray.open_zarr("features/ped2.zarr")` opens a store without this package.
"""
