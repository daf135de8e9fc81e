"""Forms of lines that programs write by default: what is proposed for each reads role, type and time out of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bridge.admin.survey.infer_log import infer
from bridge.admin.survey.proposal import codec_of
from bridge.core.mapping import Mapping
from bridge.core.strict_models import validated

AT = 1772359200000
"""2026-03-01T10:00:00Z in milliseconds since 1970."""

NO_ROLE, NO_TYPE = "stem", "line"
"""What stands for a role, and a type, of which a line tells nothing: here the file's name, and a constant."""

FORMS: dict[str, tuple[str, str, str, int]] = {
    # name: line, role, type, milliseconds behind AT
    "Apache common": ('10.0.0.1 - bob [01/Mar/2026:10:00:00 +0000] "GET /a HTTP/1.1" 200 7', NO_ROLE, "GET", 0),
    "Apache combined": ('::1 - - [01/Mar/2026:12:00:00 +0200] "POST /a HTTP/1.1" 200 7 "-" "curl/8"', NO_ROLE, "POST", 0),
    "Apache error 2.4": ("[Sun Mar 01 10:00:00.123456 2026] [core:error] [pid 35:tid 43] said", "core", "error", 123),
    "Apache error 2.2": ("[Sun Mar 01 10:00:00 2026] [error] [client 1.2.3.4] said", NO_ROLE, "error", 0),
    "nginx error": ("2026/03/01 10:00:00 [error] 123#0: *1 open() failed", NO_ROLE, "error", 0),
    "syslog of RFC 5424": ("<34>1 2026-03-01T10:00:00.003Z host su 12 ID47 - said", "su", "ID47", 3),
    "journald, short-iso": ("2026-03-01T10:00:00+0000 host cron[7]: said", "cron", NO_TYPE, 0),
    "journald, short-full": ("Sun 2026-03-01 10:00:00 UTC host cron[7]: said", "cron", NO_TYPE, 0),
    "journald, short-unix": ("1772359200.123456 host sshd[7]: said", "sshd", NO_TYPE, 123),
    "journald, JSON": ('{"__REALTIME_TIMESTAMP":"1772359200123456","SYSLOG_IDENTIFIER":"cron","PRIORITY":"6","MESSAGE":"x"}',
                       "cron", "6", 123),
    "Docker": ('{"log":"said\\n","stream":"stdout","time":"2026-03-01T10:00:00.123456789Z"}', NO_ROLE, "stdout", 123),
    "Kubernetes": ("2026-03-01T10:00:00.123456789Z stdout F said", NO_ROLE, "stdout", 123),
    "Go": ("2026/03/01 10:00:00 said", NO_ROLE, NO_TYPE, 0),
    "Go, with microseconds and file": ("2026/03/01 10:00:00.123456 main.go:12: said", "main.go", NO_TYPE, 123),
    "slog": ('time=2026-03-01T10:00:00.000Z level=INFO msg="said"', NO_ROLE, "INFO", 0),
    "slog, JSON": ('{"time":"2026-03-01T10:00:00Z","level":"INFO","msg":"said"}', NO_ROLE, "INFO", 0),
    "zap, JSON": ('{"level":"info","ts":1772359200.123,"logger":"db","msg":"said"}', "db", "info", 123),
    "zap, console": ("2026-03-01T10:00:00.123Z\tINFO\tdb\tsaid", "db", "INFO", 123),
    "logrus": ('time="2026-03-01T10:00:00Z" level=info msg="said" component=db', "db", "info", 0),
    "zerolog": ('{"level":"info","time":1772359200,"message":"said"}', NO_ROLE, "info", 0),
    "java.util.logging": ("Mar 01, 2026 10:00:00 AM com.acme.Main run", "com.acme.Main", NO_TYPE, 0),
    "log4j": ("2026-03-01 10:00:00,123 [main] INFO  org.acme.A - said", "org.acme.A", "INFO", 123),
    "logback": ("2026-03-01 10:00:00.123 INFO  [main] org.acme.A - said", "org.acme.A", "INFO", 123),
    "Spring Boot 2": ("2026-03-01 10:00:00.123  INFO 1 --- [main] c.acme.App : said", "c.acme.App", "INFO", 123),
    "Spring Boot 3": ("2026-03-01T10:00:00.123Z  WARN 1 --- [app] [main] c.acme.App : said", "c.acme.App", "WARN", 123),
    "Tomcat": ("01-Mar-2026 10:00:00.123 INFO [main] org.apache.A.start said", "org.apache.A.start", "INFO", 123),
    "logstash, JSON": ('{"@timestamp":"2026-03-01T10:00:00.123Z","level":"INFO","logger_name":"a.B","message":"x"}',
                       "a.B", "INFO", 123),
    "Kafka": ("[2026-03-01 10:00:00,123] INFO said (kafka.server.KafkaServer)", "kafka.server.KafkaServer", "INFO", 123),
    "Cassandra": ("INFO  [main] 2026-03-01 10:00:00,123 Gossiper.java:12 - said", "Gossiper.java", "INFO", 123),
    "Elasticsearch": ("[2026-03-01T10:00:00,123][INFO ][o.e.n.Node   ] [n1] said", "o.e.n.Node", "INFO", 123),
    "Hadoop": ("2026-03-01 10:00:00,123 INFO [main] org.acme.A: said", "org.acme.A", "INFO", 123),
    "HDFS": ("260301 100000 12 INFO dfs.FSNamesystem: said", "dfs.FSNamesystem", "INFO", 0),
    "Spark": ("26/03/01 10:00:00 INFO Executor: said", "Executor", "INFO", 0),
    "ZooKeeper": ("2026-03-01 10:00:00,123 - INFO  [main:QuorumPeer@12] - said", "main:QuorumPeer@12", "INFO", 123),
    "OpenStack": ("nova.log 2026-03-01 10:00:00.008 25 INFO nova.api [req-1 a - -] said", "nova.api", "INFO", 8),
    "Python, usual format": ("2026-03-01 10:00:00,123 - app.db - INFO - said", "app.db", "INFO", 123),
    "Python, level first": ("2026-03-01 10:00:00,123 INFO app.db: said", "app.db", "INFO", 123),
    "Python, brackets": ("2026-03-01 10:00:00,123 [INFO] app.db: said", "app.db", "INFO", 123),
    "Python, without a time": ("INFO:app.db:said", "app.db", "INFO", -AT),
    "loguru": ("2026-03-01 10:00:00.123 | INFO     | app.db:run:12 - said", "app.db", "INFO", 123),
    "structlog": ("2026-03-01T10:00:00Z [info     ] said               [app.db] n=1", "app.db", "info", 0),
    "gunicorn": ("[2026-03-01 10:00:00 +0000] [123] [INFO] said", NO_ROLE, "INFO", 0),
    "Celery": ("[2026-03-01 10:00:00,123: INFO/MainProcess] said", "MainProcess", "INFO", 123),
    "uvicorn": ('INFO:     127.0.0.1:1 - "GET / HTTP/1.1" 200 OK', NO_ROLE, "INFO", -AT),
    "Django": ('[01/Mar/2026 10:00:00] "GET / HTTP/1.1" 200 7', NO_ROLE, NO_TYPE, 0),
    "PostgreSQL": ("2026-03-01 10:00:00.123 UTC [12] bob@shop LOG:  said", "bob@shop", "LOG", 123),
    "PostgreSQL, no session": ("2026-03-01 10:00:00.123 UTC [12] LOG:  said", "", "LOG", 123),
    "MySQL": ("2026-03-01T10:00:00.123456Z 0 [Note] [MY-010116] [Server] said", "Server", "Note", 123),
    "Redis": ("12:M 01 Mar 2026 10:00:00.123 * said", "M", "*", 123),
    "MongoDB": ('{"t":{"$date":"2026-03-01T10:00:00.123+00:00"},"s":"I","c":"NETWORK","msg":"said"}', NO_ROLE, NO_TYPE, 123),
    "Rails": ("I, [2026-03-01T10:00:00.123456 #12]  INFO -- app: said", "app", "INFO", 123),
    "fluentd": ("2026-03-01 10:00:00 +0000 [info]: said", NO_ROLE, "info", 0),
    "fail2ban": ("2026-03-01 10:00:00,123 fail2ban.filter [12]: INFO said", "fail2ban.filter", "INFO", 123),
    "dpkg": ("2026-03-01 10:00:00 install foo:amd64 <none> 1.0", NO_ROLE, NO_TYPE, 0),
    "pacman": ("[2026-03-01T10:00:00+0000] [ALPM] installed foo", "ALPM", NO_TYPE, 0),
    "Windows CBS": ("2026-03-01 10:00:00, Info                  CBS    said", "CBS", "Info", 0),
    "tracing of Rust": ("2026-03-01T10:00:00.123456Z  INFO my_crate::db: said", "my_crate::db", "INFO", 123),
    "env_logger of Rust": ("[2026-03-01T10:00:00Z INFO  my_crate::db] said", "my_crate::db", "INFO", 0),
    "Serilog": ("2026-03-01 10:00:00.123 +00:00 [INF] said", NO_ROLE, "INF", 123),
    "NLog": ("2026-03-01 10:00:00.1234|INFO|App.Program|said", "App.Program", "INFO", 123),
    "pino": ('{"level":30,"time":1772359200123,"name":"app","msg":"said"}', "app", "30", 123),
    "bunyan": ('{"name":"app","hostname":"h","level":30,"msg":"said","time":"2026-03-01T10:00:00.123Z","v":0}', "app", "30", 123),
    "winston, text": ("2026-03-01T10:00:00.123Z [svc] info: said", "svc", "info", 123),
    "GELF": ('{"version":"1.1","host":"h","short_message":"said","timestamp":1772359200.123,"level":6}', "h", "6", 123),
    "Cloud": ('{"severity":"INFO","timestamp":"2026-03-01T10:00:00.123456789Z","message":"said","component":"api"}',
              "api", "INFO", 123),
    "IRC": ("[2026-03-01 10:00:00] <@ann> said", "ann", "", 0),
    "a chat of names": ("2026-03-01 10:00:00 - Ann Lee: said", "Ann Lee", NO_TYPE, 0),
    "a bracketed name": ("2026-03-01T10:00:00Z [planner] said", "planner", NO_TYPE, 0),
    "a bracketed name and a level": ("2026-03-01T10:00:00Z [planner] ERROR said", "planner", "ERROR", 0),
    "a level and a bracketed name": ("2026-03-01T10:00:00Z ERROR [planner] said", "planner", "ERROR", 0),
    "RFC 3339 in small letters": ("2026-03-01t10:00:00z INFO app: said", "app", "INFO", 0),
    "ISO 8601 without marks": ("20260301T100000Z said", NO_ROLE, NO_TYPE, 0),
    "epoch in microseconds": ("1772359200123456 said", NO_ROLE, NO_TYPE, 123),
    "epoch in nanoseconds": ("1772359200123456789 said", NO_ROLE, NO_TYPE, 123),
    "date(1)": ("Sun Mar  1 10:00:00 UTC 2026 said", NO_ROLE, NO_TYPE, 0),
    "hestai-message": ("agent|2026-03-01T10:00:00Z|turn|said", "agent", "turn", 0),
    "hestai-roles": ("2026-03-01T10:00:00Z|turn|said", NO_ROLE, "turn", 0),
    "tabs": ("2026-03-01 10:00:00\tWARN\tapi\tsaid", "api", "WARN", 0),
    "actor": ('{"actor":"planner","action":"plan","at":"2026-03-01T10:00:00Z"}', "planner", "plan", 0),
    "sender": ('{"sender":"ann","kind":"note","createdAt":"2026-03-01T10:00:00Z"}', "ann", "note", 0),
    "from": ('{"from":"ann","event":"note","date":"2026-03-01T10:00:00Z"}', "ann", "note", 0),
    "no time at all": ("something was said", NO_ROLE, NO_TYPE, -AT),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_what_is_proposed_reads_the_line(name: str) -> None:
    """The mapping that is proposed for lines of a form reads role, type and time out of each, and loses no byte."""
    text, role, kind, ms = FORMS[name]
    line = text.encode()
    proposal = infer(
        [line, line.replace(b"said", b"said, and said again, at length"), line.replace(b"said", b"and so on")]
    )
    [row], [time] = codec_of(proposal).decode([line])
    assert not isinstance(row, str), (row, proposal)
    assert (row[0].decode(), row[2].decode(), time) == (role, kind, AT + ms), proposal
    rest = row[3] or line
    assert rest in line, proposal
    validated(Mapping, {"name": "m", "source": {"kind": "log", "path": "m.log"}, "stream": {"key": "m"},
                        "format": proposal.format, "message": proposal.message}, "m.toml")  # fmt: skip


PLAIN: dict[str, Any] = {
    "codec": "delimited", "delimiter": "|", "columns": ["role", "timestamp", "type", "data"],
}  # fmt: skip
POINTED: dict[str, Any] = {"role": {"pointer": "/role"}, "type": {"pointer": "/type"}, "timestamp": {"pointer": "/at"}}
REJECTS: dict[str, tuple[dict[str, Any], dict[str, Any], bytes, str]] = {
    "too few columns": (PLAIN, {}, b"a|2026-03-01T10:00:00Z|t", "3 of 4 columns"),
    "no time": (PLAIN, {}, b"a|yesterday|t|d", "timestamp"),
    "an empty time": (PLAIN, {}, b"a||t|d", "timestamp"),
    "a zone that nobody told": (PLAIN, {}, b"a|2026-03-01 10:00:00 CEST|t|d", "format.zones"),
    "29 February of another year": (PLAIN, {}, b"a|2026-02-29T10:00:00Z|t|d", "timestamp"),
    "25 o'clock": (PLAIN, {}, b"a|2026-03-01T25:00:00Z|t|d", "timestamp"),
    "two records": ({"codec": "jsonl"}, POINTED, b'{"role":"a","type":"t","at":"2026-03-01T10:00:00Z"}{"role":"b"}',
                    "more than one JSON value"),
    "a torn record": ({"codec": "jsonl"}, POINTED, b'{"role":"a","type":"t","at":"2026-', "not JSON"),
    "a list": ({"codec": "jsonl"}, POINTED, b"[1, 2]", "not a JSON object"),
    "a record without a time": ({"codec": "jsonl"}, POINTED, b'{"role":"a","type":"t"}', "nothing at /at"),
    "a record without a type": ({"codec": "jsonl"}, POINTED, b'{"role":"a","at":"2026-03-01T10:00:00Z"}', "nothing at /type"),
    "another pattern": ({"codec": "regex", "pattern": r"(?P<timestamp>\S+) (?P<data>.*)"},
                        {"role": {"const": "r"}, "type": {"const": "t"}}, b"one", "does not match format.pattern"),
    "zeros between records": ({"codec": "jsonl"}, POINTED, b'{"role":"a"}\0\0{"role":"b"}', "more than one JSON value"),
    "a mark within": ({"codec": "jsonl"}, POINTED, b'\xef\xbb\xbf{"role":"a"}', "not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", REJECTS)
def test_what_is_no_message_says_why(name: str) -> None:
    """A line that its mapping does not fit is a reject that names the reason, and never a message."""
    form, message, line, why = REJECTS[name]
    tables = {"name": "m", "source": {"kind": "log", "path": "m.log"}, "stream": {"key": "m"}, "format": form,
              **({"message": message} if message else {})}  # fmt: skip
    [row] = validated(Mapping, tables, "m.toml").codec("m.log").decode([line]).rows
    assert isinstance(row, str)
    assert why in row
    assert json.dumps(row)
