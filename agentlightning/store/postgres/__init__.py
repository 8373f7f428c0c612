"""The store on PostgreSQL: durable, and shared by as many programs and machines as reach the database."""

from agentlightning.store.postgres.store import PostgresLightningStore

__all__ = ["PostgresLightningStore"]
