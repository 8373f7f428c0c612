"""OpenTelemetry spans over HTTP (OTLP): what a stock exporter sends becomes spans of the store.

The server mounts the functions of `handler`; nothing here knows its web framework. Protobuf is loaded with these.
"""
