"""The ledger: the table of chunks, and the transitions of chunks and jobs in it."""
