"""From what is found in the world to records: sources, decoding, filters, shards. `phenaki ingest` runs it."""
