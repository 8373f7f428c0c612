"""The store's operations in SQL, one concept a file; an engine runs them, each in a transaction."""
