"""Holds the image's recipe and the deployment template to what can be known offline.

  deploy_check.py dockerfile <Dockerfile>          hadolint, and what it does not ask
  deploy_check.py template <template.json> …       cfn-lint, and what it does not ask: tasks, roles, schedules, alarms
  deploy_check.py reach <template.json> <role> <silver folder> <bucket/prefix>
                                                   the role may write every file that a run left below a local silver folder
  deploy_check.py mutations <template.json>        the checks find what is broken on purpose
  deploy_check.py bundle <folder> [<schema.json>]  a Databricks asset bundle: its jobs, the files that they name, the SQL in them; and the
                                                   schema that `databricks bundle schema` prints, where it is given

It exits 1 if anything is wrong. The rules are written down a second time here, apart from those of `etl deploy ecs` itself.
"""

from __future__ import annotations

import copy
import fnmatch
import json
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Json = Any

REGION = "eu-central-1"
# MiB that Fargate sells with so many CPU units.
FARGATE = {
    256: [512, 1024, 2048],
    512: [gib * 1024 for gib in range(1, 5)],
    1024: [gib * 1024 for gib in range(2, 9)],
    2048: [gib * 1024 for gib in range(4, 17)],
    4096: [gib * 1024 for gib in range(8, 31)],
    8192: [gib * 1024 for gib in range(16, 61, 4)],
    16384: [gib * 1024 for gib in range(32, 121, 8)],
}
# Actions that AWS grants on no narrower resource.
ON_EVERYTHING = {"ecr:GetAuthorizationToken"}


def tool(name: str) -> str:
    return str(Path(sysconfig.get_path("scripts")) / name)


def run(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return []
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or [f"{command[0]}: exit {done.returncode}"]


def as_list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [] if value is None else [value]


def text_of(value: Json) -> str:
    """A string, or the text of an Fn::Sub; other references as their JSON."""
    if isinstance(value, dict) and set(value) == {"Fn::Sub"}:
        return str(value["Fn::Sub"])
    return value if isinstance(value, str) else json.dumps(value)


def dockerfile(path: str) -> Iterator[str]:
    yield from run(tool("hadolint"), path)
    lines = re.sub(r"\\\n", " ", Path(path).read_text()).splitlines()
    instructions = [line.split(None, 1) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    froms = [at for at, words in enumerate(instructions) if words[0] == "FROM"]
    if len(froms) < 2:
        yield "the image contains what it is built with: there is one stage only"
    final = dict(instructions[froms[-1] :])
    user = final.get("USER", "root").split(":")[0]
    if user in ("root", "0"):
        yield "the image runs as root"
    if not final.get("ENTRYPOINT", "").startswith("["):
        yield "ENTRYPOINT is not in exec form: a shell would keep SIGTERM to itself"
    if "/tmp" not in final.get("VOLUME", ""):
        yield "/tmp is no VOLUME: ECS would mount it for root only"
    if final.get("HEALTHCHECK") != "NONE":
        yield "HEALTHCHECK is not NONE"
    if any(re.search(r"tini|dumb-init", words[-1]) for words in instructions):
        yield "there is an init process"
    for at in froms:
        image = instructions[at][1].split()[0]
        if ":" not in image or image.endswith(":latest"):
            yield f"{image} is not pinned"


def statements(role: Json) -> Iterator[Json]:
    for policy in role["Properties"].get("Policies", []):
        yield from policy["PolicyDocument"]["Statement"]


def role_problems(role: Json) -> Iterator[str]:
    if not any(True for _ in statements(role)):
        yield "allows nothing"
    if role["Properties"].get("ManagedPolicyArns"):
        yield "takes rights from policies that others change"
    for statement in role["Properties"]["AssumeRolePolicyDocument"]["Statement"]:
        if "aws:SourceAccount" not in json.dumps(statement.get("Condition", {})):
            yield "may be assumed on behalf of other accounts"
    for statement in statements(role):
        sid = statement.get("Sid", "?")
        actions = as_list(statement.get("Action"))
        resources = [text_of(resource) for resource in as_list(statement.get("Resource"))]
        condition = statement.get("Condition", {})
        if not actions or any("*" in action for action in actions) or "NotAction" in statement:
            yield f"{sid}: actions are not named one by one"
        if not resources or "NotResource" in statement:
            yield f"{sid}: names no resource"
        for resource in resources:
            if resource == "*" and not set(actions) <= ON_EVERYTHING:
                yield f"{sid}: reaches everything"
            bucket, _, key = resource.partition(":s3:::")[2].partition("/")
            if bucket and ("*" in bucket or key == "*"):
                yield f"{sid}: reaches a whole bucket"
            if any(action.startswith("s3:") and action != "s3:ListBucket" for action in actions) and not key:
                yield f"{sid}: {resource} is no object"
        if "s3:ListBucket" in actions:
            prefixes = as_list(condition.get("StringLike", {}).get("s3:prefix"))
            if not prefixes or any(prefix in ("", "*", "/*") for prefix in prefixes):
                yield f"{sid}: lists a whole bucket"
        if "iam:PassRole" in actions and "iam:PassedToService" not in json.dumps(condition):
            yield f"{sid}: gives roles to any service"
        if any(action.startswith("kms:") for action in actions) and "kms:ViaService" not in json.dumps(condition):
            yield f"{sid}: uses the key for more than S3"


def task_problems(task: Json) -> Iterator[str]:
    properties = task["Properties"]
    if properties.get("NetworkMode") != "awsvpc":
        yield "NetworkMode is not awsvpc"
    cpu, memory = int(properties.get("Cpu", 0)), int(properties.get("Memory", 0))
    if memory not in FARGATE.get(cpu, []):
        yield f"Fargate sells no {memory} MiB with {cpu} CPU units"
    storage = properties.get("EphemeralStorage")
    if storage is not None and not 21 <= storage.get("SizeInGiB", 0) <= 200:
        yield "EphemeralStorage is not 21 to 200 GiB"
    if not properties.get("TaskRoleArn") or not properties.get("ExecutionRoleArn"):
        yield "a role is missing"
    volumes = {volume["Name"] for volume in properties.get("Volumes", [])}
    for container in properties["ContainerDefinitions"]:
        stop = container.get("StopTimeout", 0)
        if not 2 <= stop <= 120:
            yield "StopTimeout is not 2 to 120 s"
        if container.get("ReadonlyRootFilesystem") is not True:
            yield "the root file system can be written"
        if container.get("User", "root").split(":")[0] in ("root", "0"):
            yield "runs as root"
        if container.get("Privileged"):
            yield "is privileged"
        if not any(mount["ContainerPath"] == "/tmp" and mount["SourceVolume"] in volumes for mount in container.get("MountPoints", [])):
            yield "has no writable /tmp"
        log = container.get("LogConfiguration", {})
        if log.get("LogDriver") != "awslogs" or not log.get("Options", {}).get("awslogs-stream-prefix"):
            yield "awslogs on Fargate needs a stream prefix"
        if log.get("Options", {}).get("mode") != "blocking":
            yield "log mode is not blocking: lines, and metrics with them, can be lost"
        variables = {variable["Name"]: variable["Value"] for variable in container.get("Environment", [])}
        wanted = {"ETL_LOG": "json", "ETL_OUTPUT": "json", "ETL_METRICS": "emf"}
        for name, value in wanted.items():
            if variables.get(name) != value:
                yield f"{name} is not {value}"
        for name in ("ETL_ENTITY", "ETL_COUNTRY", "ETL_BRONZE", "ETL_SILVER"):
            if not variables.get(name):
                yield f"{name} is not set"
        if int(str(variables.get("ETL_STOP_TIMEOUT", "999")).split()[0]) >= stop:
            yield "the program waits as long as ECS does, or longer"
        if any(re.search(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY", name) for name in variables):
            yield "a secret stands in the environment"


def schedule_problems(schedule: Json) -> Iterator[str]:
    target = schedule["Properties"]["Target"]
    if not target.get("DeadLetterConfig", {}).get("Arn"):
        yield "what cannot be started is lost"
    retry = target.get("RetryPolicy", {})
    if not 0 <= retry.get("MaximumRetryAttempts", -1) <= 185 or not 60 <= retry.get("MaximumEventAgeInSeconds", 0) <= 86400:
        yield "RetryPolicy is out of bounds"
    if "FlexibleTimeWindow" not in schedule["Properties"]:
        yield "FlexibleTimeWindow is missing"
    if "Input" in target:
        containers = json.loads(target["Input"])["containerOverrides"]
        if [container["name"] for container in containers] != ["etl"]:
            yield "overrides a container that is not there"


def alarm_problems(alarm: Json) -> Iterator[str]:
    properties = alarm["Properties"]
    period, periods = properties.get("Period", 0), properties.get("EvaluationPeriods", 0)
    longest = 86400 if period < 3600 else 7 * 86400
    if period <= 0 or period % 60 or period > 86400 or not 0 < period * periods <= longest:
        yield f"CloudWatch does not look back at {periods} × {period} s"
    if not properties.get("AlarmActions"):
        yield "nobody hears it"
    if properties.get("MetricName") == "RunSucceeded" and properties.get("TreatMissingData") != "breaching":
        yield "is silent where nothing runs"


KINDS: dict[str, Callable[[Json], Iterator[str]]] = {
    "AWS::ECS::TaskDefinition": task_problems,
    "AWS::IAM::Role": role_problems,
    "AWS::Scheduler::Schedule": schedule_problems,
    "AWS::CloudWatch::Alarm": alarm_problems,
}


def own_problems(template: Json) -> Iterator[str]:
    resources: dict[str, Json] = template["Resources"]
    for name, resource in resources.items():
        for problem in KINDS.get(resource["Type"], lambda _: iter(()))(resource):
            yield f"{name}: {problem}"
    tasks = {name for name, resource in resources.items() if resource["Type"] == "AWS::ECS::TaskDefinition"}
    scheduled = {
        resource["Properties"]["Target"]["EcsParameters"]["TaskDefinitionArn"]["Ref"]
        for resource in resources.values()
        if resource["Type"] == "AWS::Scheduler::Schedule"
    }
    yield from (f"{name}: is never started" for name in sorted(tasks - scheduled))
    roles = [resources[name]["Properties"]["TaskRoleArn"]["Fn::GetAtt"][0] for name in sorted(tasks)]
    if len(set(roles)) != len(roles):
        yield "tasks share a role"


def template(path: str) -> Iterator[str]:
    text = Path(path).read_text()
    if len(text.encode()) > 1_000_000:
        yield "more than CloudFormation takes"
    yield from run(tool("cfn-lint"), "--regions", REGION, "--template", path)
    yield from own_problems(json.loads(text))


def reach(path: str, role: str, silver: str, place: str) -> Iterator[str]:
    allowed: dict[str, list[str]] = {}
    for statement in statements(json.loads(Path(path).read_text())["Resources"][role]):
        for action in as_list(statement["Action"]):
            allowed.setdefault(action, []).extend(text_of(resource).partition(":s3:::")[2] for resource in as_list(statement["Resource"]))
    keys = [f"{place}/{file.relative_to(silver).as_posix()}" for file in sorted(Path(silver).rglob("*")) if file.is_file()]
    if not keys:
        yield f"there is nothing in {silver}"
    for key in keys:
        if not any(fnmatch.fnmatchcase(key, pattern) for pattern in allowed.get("s3:PutObject", [])):
            yield f"{role} may not write {key}"


def at(value: Json, path: str) -> tuple[Json, str | int]:
    *parents, last = path.split("/")
    for part in parents:
        value = value[int(part) if isinstance(value, list) else part]
    return value, int(last) if isinstance(value, list) else last


def mutations(path: str) -> Iterator[str]:
    """Each breaks a sound template in one place; each must be found."""
    sound = json.loads(Path(path).read_text())
    first = {}
    for name, resource in sound["Resources"].items():
        first.setdefault(resource["Type"], name)
    task = f"Resources/{first['AWS::ECS::TaskDefinition']}/Properties"
    container = f"{task}/ContainerDefinitions/0"
    task_role = sound["Resources"][first["AWS::ECS::TaskDefinition"]]["Properties"]["TaskRoleArn"]["Fn::GetAtt"][0]
    policy = f"Resources/{task_role}/Properties/Policies/0/PolicyDocument/Statement"
    schedule = f"Resources/{first['AWS::Scheduler::Schedule']}/Properties"
    silent = next(name for name, resource in sound["Resources"].items() if resource["Properties"].get("MetricName") == "RunSucceeded")
    gone = object()
    broken: list[tuple[str, Json]] = [
        (f"{container}/StopTimeout", 300),
        (f"{task}/EphemeralStorage", {"SizeInGiB": 500}),
        (f"{container}/LogConfiguration/Options/mode", gone),
        (f"{container}/LogConfiguration/Options/awslogs-stream-prefix", gone),
        (f"{task}/NetworkMode", "bridge"),
        (f"{task}/Memory", "5000"),
        (f"{container}/User", "0"),
        (f"{container}/ReadonlyRootFilesystem", False),
        (f"{container}/MountPoints", []),
        (f"{policy}/1/Action", ["s3:*"]),
        (f"{policy}/1/Resource", "*"),
        (f"{policy}/1/Resource", [{"Fn::Sub": "arn:${AWS::Partition}:s3:::lake/*"}]),
        (f"{policy}/0/Condition", {}),
        (f"{schedule}/Target/DeadLetterConfig", gone),
        (f"Resources/{silent}/Properties/EvaluationPeriods", 1000),
        (f"Resources/{silent}/Properties/TreatMissingData", "missing"),
    ]
    for place, value in broken:
        changed = copy.deepcopy(sound)
        parent, key = at(changed, place)
        if value is gone:
            del parent[key]
        else:
            parent[key] = value
        found = list(own_problems(changed))
        print(f"{place} = {'(missing)' if value is gone else json.dumps(value)}: {found[0] if found else 'NOT FOUND'}")
        if not found:
            yield f"{place}: nothing found"
    # One that linters know: both must speak.
    parent, key = at(sound, f"{task}/Memory")
    parent[key] = "5000"
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(sound, file)
        file.flush()
        if not run(tool("cfn-lint"), "--regions", REGION, "--template", file.name):
            yield "cfn-lint lets a wrong pair of CPU and memory pass"


def sql_problems(text: str) -> Iterator[str]:
    """What a splitter of statements, or whoever replaces parameters, would trip over: seen by quotes alone."""
    quote, at, ends = "", 0, 0
    comments = [line for line in text.splitlines() if line.startswith("--")]
    if any(mark in line for line in comments for mark in ";'"):
        yield "a comment has what ends a statement or begins a text"
    while at < len(text):
        here = text[at]
        if quote == "'" and here == "\\":
            at += 1
        elif quote:
            quote = "" if here == quote else quote
        elif here in "'`":
            quote = here
        elif here == ";":
            ends += 1
        at += 1
    if quote:
        yield f"a {quote} is never closed"
    if not text.rstrip().endswith(";") or ends != text.count(";"):
        yield "a semicolon stands where no statement ends"
    for mark in ("${", "{{"):
        if mark in text:
            yield f"{mark} would be replaced before the statement is read"


def bundle(folder: str, schema: str | None) -> Iterator[str]:
    root = Path(folder)
    head = yaml.safe_load((root / "databricks.yml").read_text())
    whole = {**head, "resources": {"jobs": {}}}
    if head["include"] != ["resources/*.yml"]:
        yield "databricks.yml does not include the jobs"
    named = set()
    for file in sorted((root / "resources").glob("*.yml")):
        for key, job in yaml.safe_load(file.read_text())["resources"]["jobs"].items():
            whole["resources"]["jobs"][key] = job
            if job["max_concurrent_runs"] != 1:
                yield f"{key}: two runs would read the same files"
            if not re.fullmatch(r"0( [0-9*/?,A-Z#-]+){5,6}", job["schedule"]["quartz_cron_expression"]):
                yield f"{key}: {job['schedule']['quartz_cron_expression']} is no Quartz expression"
            before = None
            for task in job["tasks"]:
                if [on["task_key"] for on in task.get("depends_on", [])] != ([before] if before else []):
                    yield f"{key}: {task['task_key']} does not wait for {before}"
                before = task["task_key"]
                path = (file.parent / task["sql_task"]["file"]["path"]).resolve()
                named.add(path)
                if not path.is_file():
                    yield f"{key}: there is no file {path}"
    for path in sorted(root.resolve().glob("sql/*/*.sql")):
        if path not in named:
            yield f"{path}: no task runs it"
        yield from (f"{path}: {problem}" for problem in sql_problems(path.read_text()))
    if not whole["resources"]["jobs"]:
        yield "there are no jobs"
    if schema:
        validator = jsonschema.Draft202012Validator(json.loads(Path(schema).read_text()))
        yield from (f"{'/'.join(map(str, error.path))}: {error.message[:300]}" for error in validator.iter_errors(whole))


def main(arguments: list[str]) -> int:
    match arguments:
        case ["bundle", folder, *schema]:
            problems = list(bundle(folder, schema[0] if schema else None))
        case ["dockerfile", path]:
            problems = list(dockerfile(path))
        case ["template", *paths] if paths:
            problems = [f"{path}: {problem}" for path in paths for problem in template(path)]
        case ["reach", path, role, silver, place]:
            problems = list(reach(path, role, silver, place))
        case ["mutations", path]:
            problems = list(mutations(path))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
