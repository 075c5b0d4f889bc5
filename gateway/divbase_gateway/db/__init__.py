"""Rows, sessions and migrations: everything that knows SQL. Rules live in `domain`, use cases in `services`."""
