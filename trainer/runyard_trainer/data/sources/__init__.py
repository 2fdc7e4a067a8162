"""The data of a run: list its files, read them row by row, and say by file and line what is wrong with them.

    DataSource (object or prefix) ─> SourceFile (one object, with its etag) ─> bytes ─(gz, zst)─> Row ─(parse)─> record

What a record is, an objective says: `records`. Everything streams: at most one row is in memory, of Parquet one batch
of them. What is wrong is gathered while reading and raised at the end, so that a person sees all of it at once; no
record is handed on after the first one that is wrong, unless wrong rows are to be left out.
"""
