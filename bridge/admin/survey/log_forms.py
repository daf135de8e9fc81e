"""The forms of lines that `mapping infer` tries: times, zones, levels, and patterns of the fields around a time."""

from __future__ import annotations

import re

LEVEL = (
    r"(?i:TRACE|DEBUG[1-5]?|INFO(?:RMATION)?|NOTICE|WARN(?:ING)?|ERR(?:OR)?|CRIT(?:ICAL)?|ALERT|EMERG|FATAL|SEVERE|"
    r"VERBOSE|SUCCESS|PANIC|FINE(?:R|ST)?|CONFIG|INF|WRN|DBG|VRB|FTL|TRC)"
)
"""Words, in any case, that tell how grave a message is."""

_LISTED = (
    "ACDT|ACST|AEDT|AEST|AKDT|AKST|AST|AWST|BRT|BST|CDT|CEST|CET|CST|EDT|EEST|EET|EST|HKT|HST|IDT|IST|JST|KST|MDT|MSK|"
    "MST|NDT|NST|NZDT|NZST|PDT|PHT|PKT|PST|SAST|SGT|WAT|WEST|WET|WIB"
)
ABBREVIATIONS = tuple(_LISTED.split("|"))
"""Abbreviations of time zones that stand behind times; which offset one means, its user says by `format.zones`."""

ABBREVIATED = re.compile(rb"(?!UTC|GMT)[A-Z]{3,5}(?![\w])")
"""Matches an abbreviated zone in a time, other than those that everybody reads the same."""

ZONE = f"UTC|GMT|{_LISTED}"

NO_ZONE = ("GET", "PUT", "POST", "TEXT", "INIT", "EXIT", "EDIT", "LIST", "HOST", "CHAT", "TEST", "FAULT", "SHOT", "BOT")
"""Words that look like an abbreviated zone behind a time, and are none."""

ZONE_LIKE = r" ?[\[(]?([A-Z]{1,4}T|[A-Z][a-z]+/[A-Z][A-Za-z_]+)\b"
"""What behind a time looks like a zone: an abbreviation that ends with T, or the name of a region."""

TIMES: tuple[tuple[str, str], ...] = (
    (
        rf"\d{{4}}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?: ?(?:[+-]\d\d(?::?\d\d)?|[Zz]|{ZONE})(?![\w:]))?",
        "iso8601",
    ),
    (r"(?<!\d)\d{8}T\d{6}(?:[.,]\d+)?(?:Z|[+-]\d\d(?::?\d\d)?)?(?!\d)", "iso8601"),
    (rf"[A-Z][a-z]{{2}} [A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d (?:{ZONE}) \d{{4}}", "%a %b %d %H:%M:%S %Z %Y"),
    (rf"[A-Z][a-z]{{2}}, \d\d [A-Z][a-z]{{2}} \d{{4}} \d\d:\d\d:\d\d (?:{ZONE})", "%a, %d %b %Y %H:%M:%S %Z"),
    (r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}", "%d/%b/%Y:%H:%M:%S %z"),
    (r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d\.\d+ \d{4}", "%a %b %d %H:%M:%S.%f %Y"),
    (r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}", "%a %b %d %H:%M:%S %Y"),
    (r"[A-Z][a-z]{2} \d{1,2}, \d{4} \d{1,2}:\d\d:\d\d [AP]M", "%b %d, %Y %I:%M:%S %p"),
    (r"\d\d/[A-Z][a-z]{2}/\d{4} \d\d:\d\d:\d\d", "%d/%b/%Y %H:%M:%S"),
    (r"\d\d-[A-Z][a-z]{2}-\d{4} \d\d:\d\d:\d\d\.\d+", "%d-%b-%Y %H:%M:%S.%f"),
    (r"\d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d\.\d+", "%d %b %Y %H:%M:%S.%f"),
    (r"\d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d", "%d %b %Y %H:%M:%S"),
    (r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d", "%b %d %H:%M:%S"),
    (r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d+", "%Y/%m/%d %H:%M:%S.%f"),
    (r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d", "%Y/%m/%d %H:%M:%S"),
    (r"\d{4}\.\d\d\.\d\d \d\d:\d\d:\d\d", "%Y.%m.%d %H:%M:%S"),
    (r"\d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d", "%d.%m.%Y %H:%M:%S"),
    (r"\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d\d:\d\d [AP]M", "%m/%d/%Y %I:%M:%S %p"),
    (r"\d{1,2}/\d{1,2}/\d{4}, \d{1,2}:\d\d:\d\d [AP]M", "%m/%d/%Y, %I:%M:%S %p"),
    (r"(?<!\d)\d\d-\d\d-\d{4} \d\d:\d\d:\d\d", "%d-%m-%Y %H:%M:%S"),
    (r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d", "%m/%d/%Y %H:%M:%S"),
    (r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d", "%d/%m/%Y %H:%M:%S"),
    (r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d", "%y/%m/%d %H:%M:%S"),
    (r"\d\d/\d\d/\d{4}, \d\d:\d\d:\d\d", "%d/%m/%Y, %H:%M:%S"),
    (r"\d\d/\d\d/\d{4}, \d\d:\d\d(?![\d:])", "%d/%m/%Y, %H:%M"),
    (r"\d\d\.\d\d\.\d\d, \d\d:\d\d:\d\d", "%d.%m.%y, %H:%M:%S"),
    (r"(?<!\d)\d{4} \d\d:\d\d:\d\d\.\d{6}", "%m%d %H:%M:%S.%f"),
    (r"\d\d-\d\d \d\d:\d\d:\d\d\.\d+", "%m-%d %H:%M:%S.%f"),
    (r"\d{8}-\d{1,2}:\d{1,2}:\d{1,2}:\d{1,3}", "%Y%m%d-%H:%M:%S:%f"),
    (r"(?<!\d)\d{6} \d{6}(?!\d)", "%y%m%d %H%M%S"),
    (r"(?<!\d)\d{19}(?!\d)", "epoch_ns"),
    (r"(?<!\d)\d{16}(?!\d)", "epoch_us"),
    (r"(?<!\d)\d{13}(?!\d)", "epoch_ms"),
    (r"(?<!\d)\d{10}(?:\.\d+)?(?!\d)", "epoch_s"),
    (r"\d\d:\d\d:\d\d", "%H:%M:%S"),
    (r"\d\d:\d\d", "%H:%M"),
)
"""Patterns of times, each with its `format.timestamp`; one that stands earlier is preferred."""

AMBIGUOUS = {
    "%d-%m-%Y %H:%M:%S": "day or month first",
    "%m/%d/%Y %I:%M:%S %p": "month or day first",
    "%m/%d/%Y, %I:%M:%S %p": "month or day first",
    "%m/%d/%Y %H:%M:%S": "month or day first",
    "%d/%m/%Y, %H:%M": "month or day first",
    "%d/%m/%Y, %H:%M:%S": "month or day first",
    "%y/%m/%d %H:%M:%S": "year, month or day first",
}
DAYLESS = ("%H:%M:%S", "%H:%M")

_WORD = r"[\w.$@/-]+(?:::[\w]+)*"
AROUND: tuple[str, ...] = (
    # Apache and nginx access: common and combined
    r"(?P<client>\S+) (?P<ident>\S+) (?P<user>\S+) \[@\] "
    r'(?P<data>"(?P<type>\S+?)(?: (?P<path>\S*).*?)?" (?P<status>\d+).*)',
    # Apache error, 2.4 and 2.2; nginx error
    r"\[@\] \[(?P<role>\w*):(?P<type>\w+)\] (?:\[pid (?P<pid>[\d:tid ]+)\] )?(?P<data>.*)",
    r"\[@\] \[(?P<type>[a-z]+)\] (?P<data>.*)",
    r"@ \[(?P<type>\w+)\] (?P<pid>\d+)#(?P<thread>\d+): (?P<data>.*)",
    # syslog, RFC 5424
    r"<(?P<priority>\d+)>1 @ (?P<host>\S+) (?P<role>\S+) (?P<pid>\S+) (?P<type>\S+) (?P<data>.*)",
    # Android
    r"@ +(?P<pid>\d+) +(?P<thread>\d+) (?P<type>[VDIWEFS]) (?P<role>.*?) *: (?P<data>.*)",
    # OpenStack, with or without the file's name before the time
    rf"(?:(?P<file>\S+) )?@ (?P<pid>\d+) (?P<type>{LEVEL}) (?P<role>{_WORD}) (?:\[(?P<request>[^\]]*)\] )?(?P<data>.*)",
    # PostgreSQL; MySQL; Redis
    r"@ \[(?P<pid>\d+)\](?: (?P<role>\S+@\S+))? (?P<type>[A-Z]+\d?): +(?P<data>.*)",
    r"@ (?P<thread>\d+) \[(?P<type>\w+)\](?: \[(?P<code>[^\]]+)\])?(?: \[(?P<role>[^\]]+)\])? (?P<data>.*)",
    r"(?P<pid>\d+):(?P<role>[A-Z]) @ (?P<type>[.*#-]) (?P<data>.*)",
    # Kubernetes: what a container wrote; klog and glog
    r"@ (?P<type>stdout|stderr) (?P<flag>[FP]) (?P<data>.*)",
    r"(?P<type>[IWEF])@ +(?P<pid>\d+) (?P<role>[^\]]+)\] (?P<data>.*)",
    # gunicorn; Celery; fail2ban; Kafka; Cassandra; env_logger of Rust
    rf"\[@\] \[(?P<pid>\d+)\] \[(?P<type>{LEVEL})\] (?P<data>.*)",
    rf"\[@: (?P<type>{LEVEL})/(?P<role>[^\]]+)\] (?P<data>.*)",
    rf"@ (?P<role>{_WORD}) *\[(?P<pid>\d+)\]: (?P<type>{LEVEL}) +(?P<data>.*)",
    rf"\[@\] (?P<type>{LEVEL}) (?P<data>.*) \((?P<role>{_WORD})\)",
    rf"(?P<type>{LEVEL}) +\[(?P<thread>[^\]]*)\] @ (?P<role>[\w.]+):(?P<line>\d+) - (?P<data>.*)",
    rf"\[@ (?P<type>{LEVEL}) +(?P<role>{_WORD})\] (?P<data>.*)",
    # structlog
    rf"@ \[(?P<type>{LEVEL}) *\] (?P<data>.*?) +\[(?P<role>{_WORD})\].*",
    # Spring Boot
    rf"@ +(?P<type>{LEVEL}) (?P<pid>\d+) --- (?:\[(?P<app>[^\]]*)\] )?\[(?P<thread>[^\]]*)\] (?P<role>\S+) *"
    r": (?P<data>.*)",
    # Elasticsearch; Ruby; loguru
    rf"\[@\]\[(?P<type>{LEVEL}) *\]\[(?P<role>[^\]]+?) *\] ?(?P<data>.*)",
    rf"[DIWEFA], \[@ #(?P<pid>\d+)\] +(?P<type>{LEVEL}) -- (?P<role>[^:]*): (?P<data>.*)",
    rf"@ \| (?P<type>{LEVEL}) *\| (?P<role>[\w.$<>-]+):(?P<function>[\w<>]+):(?P<line>\d+) - (?P<data>.*)",
    rf"@ +\| (?P<type>{LEVEL}) *\| (?P<role>[^|]+?) *\| (?P<data>.*)",
    # log4j and its kin: Hadoop, HDFS, ZooKeeper, Spark; Python; Rust
    rf"@ +(?P<type>{LEVEL}) +\[(?P<thread>[^\]]*)\] (?P<role>{_WORD}) *[:-] (?P<data>.*)",
    rf"@ +(?P<type>{LEVEL}) +\[(?P<thread>[^\]]*)\] (?P<role>[a-z]\w*(?:\.[\w$]+)+) (?P<data>.*)",
    rf"@ +\[(?P<thread>[^\]]*)\] (?P<type>{LEVEL}) +(?P<role>{_WORD}) *[:-] (?P<data>.*)",
    rf"@ - (?P<type>{LEVEL}) +\[(?P<role>[^\]]*)\] - (?P<data>.*)",
    rf"@ - (?P<role>{_WORD}) - (?P<type>{LEVEL}) - (?P<data>.*)",
    rf"@ (?P<thread>\d+) (?P<type>{LEVEL}) (?P<role>{_WORD}): (?P<data>.*)",
    rf"@,? +(?P<type>{LEVEL}) +(?P<role>{_WORD}) *[:-] (?P<data>.*)",
    rf"@,? +(?P<type>{LEVEL}) +(?P<role>\w+)  +(?P<data>.*)",
    rf"@ +\[(?P<type>{LEVEL})\] +\[?(?P<role>{_WORD})\]? *[:-] (?P<data>.*)",
    rf"\[?@\]? +\[(?P<role>[^\]]+)\] +\[?(?P<type>{LEVEL})\]?:? +(?P<data>.*)",
    rf"\[?@\]? +\[?(?P<type>{LEVEL})\]?:? +\[(?P<role>[^\]]+)\]:? +(?P<data>.*)",
    rf"\[@\] +(?P<role>{_WORD})\.(?P<type>{LEVEL}): (?P<data>.*)",
    rf"\[@\] +\[(?P<role>[^\]/]+)/(?P<type>{LEVEL})\]:? +(?P<data>.*)",
    rf"\[?@\]? +\[?(?P<type>{LEVEL}) *\]?:? +(?P<data>.*)",
    # Go, with the place in the source; java.util.logging, whose second line is the message
    r"@ (?P<role>[\w./-]+\.go):(?P<line>\d+): (?P<data>.*)",
    r"@ (?P<role>[a-z]\w*(?:\.[\w$]+)+) (?P<data>\w+)",
    # syslog, RFC 3164; journald, also with the day of the week
    r"<(?P<priority>\d+)>@ (?P<host>[\w.:-]+) (?P<role>[^\s:\[]+)(?:\[(?P<pid>\d+)\])? ?:(?: |$)(?P<data>.*)",
    r"(?:[A-Z][a-z]{2} )?@ (?P<host>[\w.:-]+) (?P<role>[^\s:\[]+)(?:\[(?P<pid>\d+)\])? ?:(?: |$)(?P<data>.*)",
    # chats
    r"\[?@\]? (?:<[ @+%&~]?(?P<role>[^>]+)>|(?P<type>-!-|-->|<--|\*+)) (?P<data>.*)",
    # key=value, in any order: the whole line is data
    r'(?=.*?\b(?:component|logger|service|module|app)="?(?P<role>[\w.-]+))(?=.*?\b(?:level|lvl|severity)="?(?P<type>\w+))'
    r'.*?\b(?:time|ts|timestamp|t)="?@.*',
    r'(?=.*?\b(?:level|lvl|severity)="?(?P<type>\w+)).*?\b(?:time|ts|timestamp|t)="?@.*',
    # a name, in brackets or with a colon, if there are few of them; else anything behind a time
    r"\[?@\]? +\[(?P<role>[^\]]+)\]:? +(?P<data>.*)",
    r"\[?@\]?(?: -)? (?P<role>[\w.$@/-]+(?: [\w.-]+){0,2}): (?P<data>.*)",
    r"\[?@\]?[ \t:|,;-]*(?P<data>.*)",
    # a time anywhere: the whole line is data
    r".*?@.*",
)
"""Patterns of lines around a time, `@`. The first one that fits as many lines as any other is taken."""

FEW_NAMES = AROUND[-4:-2]
"""Patterns among `AROUND` that take any word for a role, so that there must be few of them."""

WITHOUT_TIME = (
    rf"(?P<type>{LEVEL}):(?P<role>[\w.$/-]+):(?P<data>.*)",
    rf"\[?(?P<type>{LEVEL})\]?:? +(?P<data>.*)",
    r"(?P<data>.*)",
)
"""Patterns of lines in which no time stands."""
