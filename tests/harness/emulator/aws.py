"""moto, made to answer as AWS does where it does not, with faults on request.

PUT /_fault  {"action": "RunInstances", "when": "before" | "after", "code": "RequestLimitExceeded", "status": 503, "times": 1}
             `after` does the work and loses the answer. Without a code the connection is closed.
PUT /_lag    {"hidden": 2, "pending": 1}: how many DescribeInstances do not show a new instance, and then show it as pending.
GET /_log    the actions that were asked for, in order, with what a fault did to them.

Mended here:
- RunInstances honours ClientToken: the same parameters answer with the same instance, others with IdempotentParameterMismatch.
- User data over 16 KiB is refused.
- A new instance can be invisible, and is pending, for as many describes as `/_lag` says.

It ends when its standard input does, so that it cannot outlive who started it.
"""
import base64
import json
import os
import sys
import threading
import xml.etree.ElementTree as ET
from io import BytesIO
from urllib.parse import parse_qs

os.environ.setdefault("MOTO_ENABLE_AMI_VALIDATION", "1")
os.environ.setdefault("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "1")

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

ANY = "{*}"  # moto answers with the namespaces of several API versions
USER_DATA_MOST = 16 * 1024

backend = DomainDispatcherApplication(create_backend_app)
lock = threading.RLock()
faults, log, tokens, seen = [], [], {}, {}
lag = {"hidden": 0, "pending": 0}


def refuse(start, status, code, message):
    start(f"{status} Refused", [("Content-Type", "text/xml")])
    text = f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>shim</RequestID></Response>"
    return [text.encode()]


def ask(environ):
    """The backend's whole answer."""
    kept = {}

    def start(status, headers, *_):
        kept["status"], kept["headers"] = status, headers

    body = b"".join(backend(environ, start))
    return kept["status"], kept["headers"], body


def give(start, answer):
    status, headers, body = answer
    start(status, [(k, v) for k, v in headers if k.lower() != "content-length"] + [("Content-Length", str(len(body)))])
    return [body]


def run_instances(environ, form):
    data = base64.b64decode(form.get("UserData", [""])[0])
    if len(data) > USER_DATA_MOST:
        return lambda start: refuse(start, 400, "InvalidParameterValue", "User data is limited to 16384 bytes")
    token = form.get("ClientToken", [None])[0]
    asked = {k: v for k, v in sorted(form.items()) if k != "ClientToken"}
    if token in tokens:
        before, answer = tokens[token]
        if before != asked:
            return lambda start: refuse(start, 400, "IdempotentParameterMismatch", "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).")
        return lambda start: give(start, answer)
    answer = ask(environ)
    if token and answer[0].startswith("200"):
        tokens[token] = (asked, answer)
    return lambda start: give(start, answer)


def describe_instances(environ):
    status, headers, body = ask(environ)
    if not status.startswith("200") or not (lag["hidden"] or lag["pending"]):
        return lambda start: give(start, (status, headers, body))
    tree = ET.fromstring(body)
    ET.register_namespace("", tree.tag[1:].split("}")[0])
    reservations = tree.find(f"{ANY}reservationSet")
    for reservation in list(reservations):
        instances = reservation.find(f"{ANY}instancesSet")
        for instance in list(instances):
            name = instance.findtext(f"{ANY}instanceId")
            seen[name] = count = seen.get(name, 0) + 1
            state = instance.find(f"{ANY}instanceState")
            if count <= lag["hidden"]:
                instances.remove(instance)
            elif count <= lag["hidden"] + lag["pending"] and state.findtext(f"{ANY}name") == "running":
                state.find(f"{ANY}code").text = "0"
                state.find(f"{ANY}name").text = "pending"
        if len(instances) == 0:
            reservations.remove(reservation)
    return lambda start: give(start, (status, headers, ET.tostring(tree, encoding="utf-8")))


def work(environ, action, form):
    if action == "RunInstances":
        return run_instances(environ, form)
    if action == "DescribeInstances":
        return describe_instances(environ)
    answer = ask(environ)
    return lambda start: give(start, answer)


def application(environ, start):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = BytesIO(body)
    path = environ["PATH_INFO"]
    with lock:
        if path in ("/_fault", "/_lag"):
            (faults.append if path == "/_fault" else lag.update)(json.loads(body))
            start("200 OK", [])
            return [b""]
        if path == "/_log":
            start("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(log).encode()]
        form = parse_qs(body.decode("utf8", "replace"))
        action = environ.get("HTTP_X_AMZ_TARGET", "").split(".")[-1] or form.get("Action", [""])[0]
        fault = next((f for f in faults if f["action"] == action and f.get("times", 1) > 0), None)
        log.append([action, fault["when"] if fault else ""])
        if fault:
            fault["times"] = fault.get("times", 1) - 1
            if fault["when"] == "after":
                work(environ, action, form)
            if "code" in fault:
                return refuse(start, fault.get("status", 503), fault["code"], "injected")
            environ["werkzeug.socket"].close()
            return []
        return work(environ, action, form)(start)


class Quiet(WSGIRequestHandler):
    def log_request(self, *_):
        pass


server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
print(f"listening {server.server_port}", flush=True)
server.serve_forever()
