"""Answers Terraform's questions about the schema of the AWS provider (plugin protocol 6) from schema.json, and no others.

    python3 infra/checks/stub.py SCHEMA SOCKET

Terraform finds it by TF_REATTACH_PROVIDERS. Plans and applies are Terraform's own mocks (`mock_provider`): the stub makes nothing. Ends
when its standard input does, so that it cannot outlive who started it.
"""

import json
import os
import sys
from concurrent import futures

import grpc
from tf.gen import tfplugin_pb2 as protocol
from tf.gen import tfplugin_pb2_grpc as service

NESTING = {
    "list": protocol.Schema.NestedBlock.LIST,
    "set": protocol.Schema.NestedBlock.SET,
    "map": protocol.Schema.NestedBlock.MAP,
    "single": protocol.Schema.NestedBlock.SINGLE,
}
# `write_only` of tfplugin6.proto (field 11, a varint), which the generated code is too old to know; unknown fields are passed on.
WRITE_ONLY = b"\x58\x01"


def block(schema, configuration=False, nested=False):
    result = protocol.Schema.Block()
    for name, value in schema["attributes"].items():
        kind = json.dumps(value["type"])
        if nested:
            # Blocks cannot hold values of any type.
            kind = kind.replace('"dynamic"', '"string"')
        required, computed = value.get("required", False), value.get("computed", False)
        write_only = name.endswith("_wo") and not nested and not computed
        attribute = protocol.Schema.Attribute(
            name=name,
            type=kind.encode(),
            required=required,
            optional=not required and not computed,
            # Which of the optional ones the provider would fill in is not known: any.
            computed=not configuration and not required and not write_only,
            sensitive=write_only,
        )
        encoded = attribute.SerializeToString() + (WRITE_ONLY if write_only else b"")
        result.attributes.append(protocol.Schema.Attribute.FromString(encoded))
    for name, value in schema["blocks"].items():
        counted = value["nesting"] in ("list", "set")
        result.block_types.append(
            protocol.Schema.NestedBlock(
                type_name=name,
                block=block(value["block"], configuration, nested=True),
                nesting=NESTING[value["nesting"]],
                min_items=value["min"] if counted else 0,
                max_items=value["max"] if counted else 0,
            )
        )
    return result


class Provider(service.ProviderServicer):
    def __init__(self, schema):
        of = lambda part: {name: protocol.Schema(version=0, block=block(each)) for name, each in schema[part].items()}
        self.schema = protocol.GetProviderSchema.Response(
            provider=protocol.Schema(version=0, block=block(schema["provider"], configuration=True)),
            resource_schemas=of("resources"),
            data_source_schemas=of("data"),
        )

    def GetMetadata(self, request, context):
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "the schema says it all")

    def GetProviderSchema(self, request, context):
        return self.schema

    def ValidateProviderConfig(self, request, context):
        return protocol.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request, context):
        return protocol.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, request, context):
        return protocol.ValidateDataResourceConfig.Response()

    def GetFunctions(self, request, context):
        return protocol.GetFunctions.Response()

    def StopProvider(self, request, context):
        return protocol.StopProvider.Response()


def main():
    schema, socket = sys.argv[1:]
    with open(schema) as file:
        provider = Provider(json.load(file))
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_send_message_length", -1)])
    service.add_ProviderServicer_to_server(provider, server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)


main()
