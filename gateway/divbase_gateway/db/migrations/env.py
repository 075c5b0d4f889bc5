"""What Alembic runs for every command: the migrations, over the connection that `db.migrate` opened."""

from __future__ import annotations

from alembic import context

from divbase_gateway.db.migrate import configuration

context.configure(connection=context.config.attributes["connection"], **configuration())
with context.begin_transaction():
    context.run_migrations()
