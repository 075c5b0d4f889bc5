"""Alembic's environment and the schema's history; `db.migrate` runs it."""
