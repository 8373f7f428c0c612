"""Train any AI agent with almost no change to the agent."""

__version__ = "0.4.0"
