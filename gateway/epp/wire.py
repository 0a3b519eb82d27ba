"""Envoy's ext_proc protocol on the wire: the messages and fields that are used here, with their numbers.

The numbers are Envoy's (`envoy/service/ext_proc/v3/external_processor.proto` and what it imports); names do not travel,
and a field that is not listed is skipped. Made here, because the package with all of Envoy's messages carries a second,
older copy of OpenTelemetry's: whichever of the two was installed last would win. Enums are integers, as they travel.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory, struct_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
EXT_PROC = "envoy.service.ext_proc.v3.ExternalProcessor"
FULL_DUPLEX_STREAMED = 4
"""Of `ProcessingMode.BodySendMode`."""
OVERWRITE_IF_EXISTS_OR_ADD = 2
"""Of `HeaderValueOption.HeaderAppendAction`."""

_PACKAGE = "kvgate.ext_proc"
_STRUCT = struct_pb2.Struct.DESCRIPTOR.full_name
_SCALARS = {
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "string": FieldDescriptorProto.TYPE_STRING,
}

_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    # Name of a field: its number, and its type. `[]` repeats, `{}` maps texts to it, `name?type` belongs to a oneof.
    "HeaderValue": {"key": (1, "string"), "value": (2, "string"), "raw_value": (3, "bytes")},
    "HeaderMap": {"headers": (1, "HeaderValue[]")},
    "HeaderValueOption": {"header": (1, "HeaderValue"), "append_action": (3, "int32")},
    "HeaderMutation": {"set_headers": (1, "HeaderValueOption[]"), "remove_headers": (2, "string[]")},
    "Metadata": {"filter_metadata": (1, "Struct{}")},
    "HttpStatus": {"code": (1, "int32")},
    "ProtocolConfiguration": {"request_body_mode": (1, "int32"), "response_body_mode": (2, "int32")},
    "HttpHeaders": {"headers": (1, "HeaderMap"), "end_of_stream": (3, "bool")},
    "HttpBody": {"body": (1, "bytes"), "end_of_stream": (2, "bool")},
    "HttpTrailers": {"trailers": (1, "HeaderMap")},
    "ProcessingRequest": {
        "request_headers": (2, "request?HttpHeaders"),
        "response_headers": (3, "request?HttpHeaders"),
        "request_body": (4, "request?HttpBody"),
        "response_body": (5, "request?HttpBody"),
        "request_trailers": (6, "request?HttpTrailers"),
        "response_trailers": (7, "request?HttpTrailers"),
        "metadata_context": (8, "Metadata"),
        "attributes": (9, "Struct{}"),
        "protocol_config": (11, "ProtocolConfiguration"),
    },
    "StreamedBodyResponse": {"body": (1, "bytes"), "end_of_stream": (2, "bool")},
    "BodyMutation": {"streamed_response": (3, "mutation?StreamedBodyResponse")},
    "CommonResponse": {"header_mutation": (2, "HeaderMutation"), "body_mutation": (3, "BodyMutation")},
    "HeadersResponse": {"response": (1, "CommonResponse")},
    "BodyResponse": {"response": (1, "CommonResponse")},
    "TrailersResponse": {"header_mutation": (1, "HeaderMutation")},
    "ImmediateResponse": {
        "status": (1, "HttpStatus"),
        "headers": (2, "HeaderMutation"),
        "body": (3, "bytes"),
        "details": (5, "string"),
    },
    "ProcessingResponse": {
        "request_headers": (1, "response?HeadersResponse"),
        "response_headers": (2, "response?HeadersResponse"),
        "request_body": (3, "response?BodyResponse"),
        "response_body": (4, "response?BodyResponse"),
        "request_trailers": (5, "response?TrailersResponse"),
        "response_trailers": (6, "response?TrailersResponse"),
        "immediate_response": (7, "response?ImmediateResponse"),
        "dynamic_metadata": (8, "Struct"),
    },
}


def _message(name: str, fields: dict[str, tuple[int, str]]) -> DescriptorProto:
    message = DescriptorProto(name=name)
    for field, (number, type_) in fields.items():
        oneof, _, kind = type_.rpartition("?")
        made = message.field.add(name=field, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
        if oneof:
            if oneof not in {known.name for known in message.oneof_decl}:
                message.oneof_decl.add(name=oneof)
            made.oneof_index = 0
        if kind.endswith(("[]", "{}")):
            made.label = FieldDescriptorProto.LABEL_REPEATED
        if kind.endswith("{}"):
            kind = _entry(message, field, kind[:-2])
        _typed(made, kind.removesuffix("[]"))
    return message


def _entry(message: DescriptorProto, field: str, kind: str) -> str:
    """A map is, on the wire, a list of these."""
    name = f"{field.title().replace('_', '')}Entry"
    entry = message.nested_type.add(name=name)
    entry.options.map_entry = True
    for number, (part, part_kind) in enumerate((("key", "string"), ("value", kind)), start=1):
        _typed(entry.field.add(name=part, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL), part_kind)
    return f"{message.name}.{name}"


def _typed(field: FieldDescriptorProto, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    field.type = FieldDescriptorProto.TYPE_MESSAGE
    field.type_name = f".{_STRUCT}" if kind == "Struct" else f".{_PACKAGE}.{kind}"


def _classes() -> dict[str, Any]:
    file = FileDescriptorProto(name="kvgate/ext_proc.proto", package=_PACKAGE, syntax="proto3")
    file.dependency.append(struct_pb2.DESCRIPTOR.name)
    file.message_type.extend(_message(name, fields) for name, fields in _MESSAGES.items())
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"{_PACKAGE}.{name}")) for name in _MESSAGES}


_made = _classes()
HeaderValue = _made["HeaderValue"]
HeaderMap = _made["HeaderMap"]
HeaderValueOption = _made["HeaderValueOption"]
HeaderMutation = _made["HeaderMutation"]
Metadata = _made["Metadata"]
HttpStatus = _made["HttpStatus"]
HttpHeaders = _made["HttpHeaders"]
HttpBody = _made["HttpBody"]
HttpTrailers = _made["HttpTrailers"]
ProcessingRequest = _made["ProcessingRequest"]
StreamedBodyResponse = _made["StreamedBodyResponse"]
BodyMutation = _made["BodyMutation"]
CommonResponse = _made["CommonResponse"]
HeadersResponse = _made["HeadersResponse"]
BodyResponse = _made["BodyResponse"]
TrailersResponse = _made["TrailersResponse"]
ImmediateResponse = _made["ImmediateResponse"]
ProcessingResponse = _made["ProcessingResponse"]
