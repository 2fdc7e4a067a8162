"""List the files of a run's data, read them row by row, and name by file and line what is wrong with them.

    DataSource (object or prefix) ─> SourceFile (one object, with its etag) ─> bytes ─(gz, zst)─> Row ─(parse)─> record

Rows are streamed: at most one is in memory, of Parquet one batch. Wrong rows are gathered while reading and raised at
the end, so that a person sees all of them at once; after the first one no record is yielded, unless wrong rows are to
be left out. Nothing here knows what a record is: that is in `data.records`.
"""
