"""Reads the arguments of AWS resources out of the CDK Terrain bindings of the AWS provider, and writes schema.json.

    python3 infra/checks/schema.py PACKAGE/lib

PACKAGE is the unpacked npm package @cdktn/provider-aws. Its generated code names, for each attribute of a resource, the Terraform name, the
type and whether it is a block; the interfaces beside it say which are required. Only the resources and data sources that files under infra/
use are kept. This is a reconstruction: README.md says what it cannot know.
"""

import json
import pathlib
import re
import sys

INFRA = pathlib.Path(__file__).resolve().parent.parent
PRIMITIVES = {"string": "string", "number": "number", "boolean": "bool", "any": "dynamic"}
GETTERS = {
    "String": "string",
    "Number": "number",
    "Boolean": "bool",
    "List": ["list", "string"],
    "NumberList": ["list", "number"],
    "StringMap": ["map", "string"],
    "NumberMap": ["map", "number"],
    "BooleanMap": ["map", "bool"],
    "AnyMap": "dynamic",
}
# What a computed block holds; the bindings hide it in a class of its own.
COMPUTED_BLOCKS = {
    ("aws_vpc_endpoint_service", "private_dns_name_configuration"): ["name", "state", "type", "value"],
}
ENTRY = re.compile(
    r'^\s+(\w+): \{\n\s+value: (.*),\n\s+isBlock: (true|false),\n\s+type: "(\w+)",\n\s+storageClassType: "(\w+)"', re.M
)
GETTER = re.compile(r"get \w+\(\) \{\n\s+return (?:cdktf|cdktn)?(.*?)this\.get(\w+)Attribute\('(\w+)'\)")


class Binding:
    """One generated class: its code and its declarations."""

    def __init__(self, folder):
        self.code = (folder / "index.js").read_text()
        self.declarations = (folder / "index.d.ts").read_text()
        self.structs = dict(re.findall(r"^function (\w+)ToHclTerraform\(struct\) \{(.*?)^\}", self.code, re.S | re.M))

    def required(self, interface, property_name):
        found = re.search(r"export interface %s(?: extends [^{]+)? \{(.*?)\n\}" % interface, self.declarations, re.S)
        marked = found and re.search(r"readonly %s(\??):" % re.escape(property_name), found.group(1))
        return bool(marked) and marked.group(1) == ""

    def block(self, body, interface, depth=0):
        attributes, blocks = {}, {}
        for name, value, is_block, kind, storage in ENTRY.findall(body):
            property_name = re.search(r"(?:this\._|struct!?\.)(\w+)", value)
            required = self.required(interface, property_name.group(1) if property_name else name)
            struct = re.search(r"(\w+)ToHclTerraform", value)
            struct = struct.group(1) if struct else None
            if struct not in self.structs or depth >= 12:
                attributes[name] = attribute(simple_type(storage, kind), required)
                continue
            inner = self.block(self.structs[struct], struct[0].upper() + struct[1:], depth + 1)
            nesting = "single" if kind == "struct" else kind
            mapper = re.search(r"MapperHcl\(\w+, (true|false)\)", value)
            if (mapper.group(1) if mapper else is_block) == "true":
                many = "listMapper" in value or "hashMapper" in value or nesting == "single"
                blocks[name] = {"nesting": nesting, "min": int(required), "max": 0 if many else 1, "block": inner}
            else:
                attributes[name] = attribute(object_type(inner, nesting), required)
        return {"attributes": attributes, "blocks": blocks}


def attribute(kind, required=False, computed=False):
    return {"type": kind} | ({"required": True} if required else {}) | ({"computed": True} if computed else {})


def simple_type(storage, kind):
    if storage in PRIMITIVES:
        return PRIMITIVES[storage]
    found = re.match(r"(string|number|boolean|any)((?:List|Map)+)$", storage)
    if not found:
        return "dynamic"
    result = PRIMITIVES[found.group(1)]
    wrappers = re.findall("List|Map", found.group(2))
    for number, wrapper in enumerate(wrappers):
        outermost = number == len(wrappers) - 1
        collection = "map" if wrapper == "Map" else kind if outermost and kind in ("list", "set") else "list"
        result = [collection, result]
    return result


def object_type(block, nesting):
    fields = {name: each["type"] for name, each in block["attributes"].items()}
    fields |= {name: object_type(each["block"], each["nesting"]) for name, each in block["blocks"].items()}
    return ["object", fields] if nesting == "single" else [nesting, ["object", fields]]


def read(folder):
    """The Terraform name of what a folder of the package binds, and its schema."""
    binding = Binding(folder)
    found = re.search(r'^(\w+)\.tfResourceType = "(aws\w*)"', binding.code, re.M)
    if not found:
        return None
    class_name, name = found.groups()
    body = re.search(r"^class %s extends .*?^\}" % class_name, binding.code, re.S | re.M).group(0)
    arguments = re.search(r"synthesizeHclAttributes\(\) \{(.*?)\n    \}", body, re.S)
    block = binding.block(arguments.group(1) if arguments else "", class_name + "Config")
    known = lambda name: name in block["attributes"] or name in block["blocks"]
    for wrapping, kind, result in GETTER.findall(body):
        if not known(result):
            value = GETTERS.get(kind, "dynamic")
            if kind.endswith("List") and "tolist" in wrapping:
                value = ["set", value[1]]
            block["attributes"][result] = attribute(value, computed=True)
    for result in re.findall(r'= new \w+\(this, "(\w+)"', body):
        if not known(result):
            fields = COMPUTED_BLOCKS.get((name, result))
            value = ["list", ["object", dict.fromkeys(fields, "string")]] if fields else "dynamic"
            block["attributes"][result] = attribute(value, computed=True)
    version = re.search(r"providerVersion: '([\d.]+)'", body)
    return name, block, version.group(1) if version else None


def used(kind):
    pattern = re.compile(r'^%s "(aws_\w+)"' % kind, re.M)
    return sorted({name for file in INFRA.rglob("*.tf") for name in pattern.findall(file.read_text())})


def main():
    library = pathlib.Path(sys.argv[1])
    folder = lambda name: name.removeprefix("aws_").replace("_", "-")
    schema = {"version": None, "provider": None, "resources": {}, "data": {}}
    _, schema["provider"], _ = read(library / "provider")
    schema["provider"]["attributes"].pop("alias", None)
    for kind, prefix, key in (("resource", "", "resources"), ("data", "data-aws-", "data")):
        for name in used(kind):
            # Folders are named as the classes, which differ from the resource's name now and then.
            candidates = [prefix + folder(name), *(each.name for each in sorted(library.iterdir()))]
            for candidate in candidates:
                if candidate.startswith("data-") != bool(prefix) or not (library / candidate / "index.js").exists():
                    continue
                if candidate != candidates[0] and name not in (library / candidate / "index.js").read_text():
                    continue
                result = read(library / candidate)
                if result and result[0] == name:
                    schema[key][name] = result[1]
                    schema["version"] = result[2]
                    break
            else:
                sys.exit(f"{library} has no {kind} {name}")
    for block in schema["resources"].values():
        block["attributes"].setdefault("id", attribute("string", computed=True))
    target = INFRA / "checks" / "schema.json"
    target.write_text(json.dumps(schema, indent=None, separators=(",", ":"), sort_keys=True).replace('},"aws_', '},\n"aws_') + "\n")
    print(f"{target}: {len(schema['resources'])} resources, {len(schema['data'])} data sources of {schema['version']}")


main()
