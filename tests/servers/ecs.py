"""The endpoints that a Fargate task sees, on loopback: ecs.py [--port N] [--host ADDRESS] [--ttl SECONDS] [--token TEXT]

    /v2/credentials/ID   a task role's credentials, another key at every fetch (AKIATEST0001, AKIATEST0002, …), valid for --ttl seconds;
                         with --token, only for requests whose Authorization header is that text
    /v4/ID, /v4/ID/task  task metadata, version 4: the container, the task; also /v4/ID/stats and /v4/ID/task/stats
    /latest/…            what an EC2 machine sees at 169.254.169.254, version 2: a token for PUT, and with it the role and its credentials
    /fetches             {"fetches": how many credentials were given out, "refused": how many were not}

Prints `listening http://HOST:PORT` when it accepts connections, and serves until SIGTERM or the end of its stdin.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ACCOUNT = "123456789012"
REGION = "eu-west-1"
CLUSTER = f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/etl"
LIMITS = {"CPU": 1, "Memory": 2048}
MACHINE_TOKEN = "machine-token"
STARTED = datetime.now(UTC)


def instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def container(task: str) -> dict[str, Any]:
    return {
        "DockerId": f"{task}-1234567890",
        "Name": "etl",
        "DockerName": "etl",
        "Image": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/etl:latest",
        "ImageID": "sha256:" + "0" * 64,
        "Labels": {
            "com.amazonaws.ecs.cluster": CLUSTER,
            "com.amazonaws.ecs.container-name": "etl",
            "com.amazonaws.ecs.task-arn": f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/etl/{task}",
            "com.amazonaws.ecs.task-definition-family": "etl",
            "com.amazonaws.ecs.task-definition-version": "7",
        },
        "DesiredStatus": "RUNNING",
        "KnownStatus": "RUNNING",
        "Limits": {"CPU": 2},
        "CreatedAt": instant(STARTED),
        "StartedAt": instant(STARTED),
        "Type": "NORMAL",
        "LogDriver": "awslogs",
        "LogOptions": {"awslogs-group": "/ecs/etl", "awslogs-region": REGION, "awslogs-stream": f"etl/etl/{task}"},
        "ContainerARN": f"arn:aws:ecs:{REGION}:{ACCOUNT}:container/etl/{task}/00000000-0000-4000-8000-000000000000",
        "Networks": [{"NetworkMode": "awsvpc", "IPv4Addresses": ["10.0.0.61"], "AttachmentIndex": 0, "PrivateDNSName": "ip-10-0-0-61"}],
        "Snapshotter": "overlayfs",
    }


def task_document(task: str) -> dict[str, Any]:
    return {
        "Cluster": CLUSTER,
        "TaskARN": f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/etl/{task}",
        "Family": "etl",
        "Revision": "7",
        "DesiredStatus": "RUNNING",
        "KnownStatus": "RUNNING",
        "Limits": LIMITS,
        "PullStartedAt": instant(STARTED),
        "PullStoppedAt": instant(STARTED),
        "AvailabilityZone": f"{REGION}a",
        "LaunchType": "FARGATE",
        "Containers": [container(task)],
        "ClockDrift": {"ClockErrorBound": 0.5, "ReferenceTimestamp": instant(datetime.now(UTC)), "ClockSynchronizationStatus": "SYNCHRONIZED"},
        "EphemeralStorageMetrics": {"Utilized": 261, "Reserved": 20496},
        "FaultInjectionEnabled": False,
    }


def stats(task: str) -> dict[str, Any]:
    memory = {"usage": 64 << 20, "max_usage": 96 << 20, "limit": LIMITS["Memory"] << 20}
    return {"read": instant(datetime.now(UTC)), "id": f"{task}-1234567890", "memory_stats": memory}


class Requests(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_PUT(self) -> None:
        asked = self.headers.get("x-aws-ec2-metadata-token-ttl-seconds")
        if self.path != "/latest/api/token" or asked is None:
            return self.answer(400, {"code": "BadRequest"})
        self.text(MACHINE_TOKEN, {"x-aws-ec2-metadata-token-ttl-seconds": asked})

    def machine(self, path: list[str]) -> None:
        if self.headers.get("x-aws-ec2-metadata-token") != MACHINE_TOKEN:
            return self.answer(401, {"code": "Unauthorized", "message": "version 2 wants a token"})
        match path:
            case ["iam", "security-credentials"]:
                self.text("etl-machine", {})
            case ["iam", "security-credentials", "etl-machine"]:
                status, document = self.server.credentials(self.server.token)
                now = instant(datetime.now(UTC))
                self.answer(status, {"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": now, **document})
            case ["placement", "region"]:
                self.text(REGION, {})
            case _:
                self.answer(404, {"code": "NotFound", "message": self.path})

    def do_GET(self) -> None:
        match self.path.partition("?")[0].strip("/").split("/"):
            case ["v2", "credentials", identifier] if identifier:
                self.answer(*self.server.credentials(self.headers.get("Authorization")))
            case ["v4", task] if task:
                self.answer(200, container(task))
            case ["v4", task, "task"]:
                self.answer(200, task_document(task))
            case ["v4", task, "stats"]:
                self.answer(200, stats(task))
            case ["v4", task, "task", "stats"]:
                self.answer(200, {f"{task}-1234567890": stats(task)})
            case ["latest", "meta-data", *path]:
                self.machine(path)
            case ["fetches"]:
                self.answer(200, {"fetches": self.server.fetches, "refused": self.server.refused})
            case _:
                self.answer(404, {"code": "NotFound", "message": self.path})

    def text(self, text: str, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, ttl: float, token: str | None) -> None:
        self.ttl = timedelta(seconds=ttl)
        self.token = token
        self.fetches = 0
        self.refused = 0
        self.counting = threading.Lock()
        super().__init__((host, port), Requests)

    def credentials(self, authorization: str | None) -> tuple[int, dict[str, Any]]:
        with self.counting:
            if self.token is not None and authorization != self.token:
                self.refused += 1
                return 401, {"code": "AuthorizationError", "message": "the Authorization header is not the token"}
            self.fetches += 1
            number = f"{self.fetches:04}"
        return 200, {
            "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/etl-task",
            "AccessKeyId": f"AKIATEST{number}",
            "SecretAccessKey": f"secret-{number}",
            "Token": f"token-{number}",
            "Expiration": instant(datetime.now(UTC) + self.ttl),
        }



def end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--ttl", type=float, default=6 * 3600, help="seconds that credentials are valid")
    parser.add_argument("--token", help="the Authorization header to insist on")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    threading.Thread(target=end_with_stdin, daemon=True).start()
    server = Server(options.host, options.port, options.ttl, options.token)
    print(f"listening http://{options.host}:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
