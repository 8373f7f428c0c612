"""The bytes of an OTLP request: decompressed within a limit, then decoded from protobuf or JSON."""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from typing import Any, Final, cast

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agentlightning.errors import InvalidValue, TooLarge
from agentlightning.store.otlp.limits import check_json, check_protobuf

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"

_WINDOW_BITS: Final = {"gzip": 31, "deflate": 15}
_ID_DIGITS: Final = {
    "traceId": 32,
    "spanId": 16,
    "parentSpanId": 16,
    "trace_id": 32,
    "span_id": 16,
    "parent_span_id": 16,
}


def media_type(content_type: str | None) -> str:
    """Return a Content-Type without its parameters."""
    return (content_type or "").partition(";")[0].strip().lower()


def decode_request(
    body: bytes, content_type: str | None, content_encoding: str | None, max_bytes: int
) -> ExportTraceServiceRequest:
    """Return the request that the bytes are.

    Raises:
        InvalidValue: They are none, or come in a form that OTLP does not have.
        TooLarge: They are more than `max_bytes` when decompressed, or hold too many objects.
    """
    kind = media_type(content_type)
    if kind not in (PROTOBUF, JSON):
        raise InvalidValue(f"Content-Type is {kind[:100]!a}: send {PROTOBUF} or {JSON}")
    plain = _decompress(body, content_encoding, max_bytes)
    return _from_protobuf(plain) if kind == PROTOBUF else _from_json(plain)


def _decompress(body: bytes, content_encoding: str | None, max_bytes: int) -> bytes:
    encoding = (content_encoding or "identity").strip().lower()
    if encoding in _WINDOW_BITS:
        body = _inflate(body, encoding, max_bytes)
    elif encoding != "identity":
        raise InvalidValue(f"Content-Encoding is {encoding[:100]!a}: send gzip, deflate or none")
    if len(body) > max_bytes:
        raise TooLarge(f"the request holds more than {max_bytes} bytes: send fewer spans at once")
    return body


def _inflate(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decompress at most one byte more than is allowed."""
    inflater = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        plain = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidValue(f"the body cannot be read as {encoding}: {error}") from error
    if len(plain) <= max_bytes and (not inflater.eof or inflater.unused_data):
        raise InvalidValue(f"the {encoding} stream ends before the body does, or after it")
    return plain


def _from_protobuf(plain: bytes) -> ExportTraceServiceRequest:
    check_protobuf(plain, ExportTraceServiceRequest)
    try:
        return ExportTraceServiceRequest.FromString(plain)
    except DecodeError as error:
        raise InvalidValue(f"the body cannot be read as an ExportTraceServiceRequest: {error}") from error


def _from_json(plain: bytes) -> ExportTraceServiceRequest:
    check_json(plain)
    try:
        fields: Any = json.loads(plain, object_hook=_with_base64_ids)
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"the body cannot be read as JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidValue("the body must be a JSON object")
    try:
        message = ExportTraceServiceRequest()
        return ParseDict(cast("dict[str, Any]", fields), message, ignore_unknown_fields=True)
    except (ParseError, ValueError, TypeError, AttributeError) as error:  # it minds what stands where an object should
        raise InvalidValue(f"the body cannot be read as an ExportTraceServiceRequest: {error}") from error


def _with_base64_ids(fields: dict[str, Any]) -> dict[str, Any]:
    """Write ids, which OTLP has in hexadecimal, as protobuf's JSON has bytes.

    Keys are names of OTLP's fields at every depth, as attributes stand in lists of key and value.
    """
    for name in fields.keys() & _ID_DIGITS:
        value = fields[name]
        if isinstance(value, str) and value:
            fields[name] = b64encode(bytes.fromhex(value.zfill(_ID_DIGITS[name]))).decode()
    return fields
