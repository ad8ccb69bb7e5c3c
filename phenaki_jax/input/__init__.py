"""Records in, batches out: the schema, the text ids, the preprocessing and the loader."""
