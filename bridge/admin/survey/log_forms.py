"""The forms of lines that `mapping infer` tries: times, zones, levels, and patterns of the fields around a time."""

from __future__ import annotations

LEVEL = (
    r"(?i:TRACE|DEBUG|INFO(?:RMATION)?|NOTICE|WARN(?:ING)?|ERR(?:OR)?|CRIT(?:ICAL)?|ALERT|EMERG|FATAL|SEVERE|VERBOSE)"
)

ABBREVIATIONS = (
    "ACDT|ACST|AEDT|AEST|AKDT|AKST|AST|AWST|BRT|BST|CDT|CEST|CET|CST|EDT|EEST|EET|EST|HKT|HST|IDT|IST|JST|KST|MDT|MSK|"
    "MST|NDT|NST|NZDT|NZST|PDT|PHT|PKT|PST|SAST|SGT|WAT|WEST|WET|WIB"
)
"""Abbreviations of time zones that stand behind times; which offset one means, its user says by `format.zones`."""

ZONE = f"UTC|GMT|{ABBREVIATIONS}"

TIMES: tuple[tuple[str, str], ...] = (
    (
        rf"\d{{4}}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?: ?(?:[+-]\d\d(?::?\d\d)?|[Zz]|{ZONE})(?![\w:]))?",
        "iso8601",
    ),
    (rf"[A-Z][a-z]{{2}} [A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d (?:{ZONE}) \d{{4}}", "%a %b %d %H:%M:%S %Z %Y"),
    (rf"[A-Z][a-z]{{2}}, \d\d [A-Z][a-z]{{2}} \d{{4}} \d\d:\d\d:\d\d (?:{ZONE})", "%a, %d %b %Y %H:%M:%S %Z"),
    (r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}", "%d/%b/%Y:%H:%M:%S %z"),
    (r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d\.\d+ \d{4}", "%a %b %d %H:%M:%S.%f %Y"),
    (r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}", "%a %b %d %H:%M:%S %Y"),
    (r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d", "%b %d %H:%M:%S"),
    (r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d+", "%Y/%m/%d %H:%M:%S.%f"),
    (r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d", "%Y/%m/%d %H:%M:%S"),
    (r"\d{4}\.\d\d\.\d\d \d\d:\d\d:\d\d", "%Y.%m.%d %H:%M:%S"),
    (r"\d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d", "%d.%m.%Y %H:%M:%S"),
    (r"\d{1,2}/\d{1,2}/\d{4},? \d{1,2}:\d\d:\d\d [AP]M", "%m/%d/%Y %I:%M:%S %p"),
    (r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d", "%m/%d/%Y %H:%M:%S"),
    (r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d", "%d/%m/%Y %H:%M:%S"),
    (r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d", "%y/%m/%d %H:%M:%S"),
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

AMBIGUOUS = {"%m/%d/%Y %H:%M:%S": "month or day first", "%y/%m/%d %H:%M:%S": "year, month or day first"}
DAYLESS = ("%H:%M:%S", "%H:%M")

_WORD = r"[\w.$@/-]+"
AROUND: tuple[str, ...] = (
    # Apache access: common and combined
    r'(?P<client>\S+) (?P<ident>\S+) (?P<user>\S+) \[@\] (?P<data>"(?P<type>\S+) (?P<path>\S*).*?" (?P<status>\d+).*)',
    # Apache error, 2.4 and 2.2
    r"\[@\] \[(?P<role>\w*):(?P<type>\w+)\] (?:\[pid (?P<pid>[\d:tid ]+)\] )?(?P<data>.*)",
    r"\[@\] \[(?P<type>\w+)\] (?P<data>.*)",
    # syslog, RFC 5424
    r"<(?P<priority>\d+)>1 @ (?P<host>\S+) (?P<role>\S+) (?P<pid>\S+) (?P<type>\S+) (?P<data>.*)",
    # Android
    r"@ +(?P<pid>\d+) +(?P<thread>\d+) (?P<type>[VDIWEFS]) (?P<role>.*?) *: (?P<data>.*)",
    # OpenStack, with or without the file's name before the time
    rf"(?:(?P<file>\S+) )?@ (?P<pid>\d+) (?P<type>{LEVEL}) (?P<role>{_WORD}) (?:\[(?P<request>[^\]]*)\] )?(?P<data>.*)",
    # log4j and its kin: Hadoop, HDFS, ZooKeeper, Spark; Python
    rf"@ +(?P<type>{LEVEL}) +\[(?P<thread>[^\]]*)\] (?P<role>{_WORD}) *[:-] (?P<data>.*)",
    rf"@ +\[(?P<thread>[^\]]*)\] (?P<type>{LEVEL}) +(?P<role>{_WORD}) *[:-] (?P<data>.*)",
    rf"@ - (?P<type>{LEVEL}) +\[(?P<role>[^\]]*)\] - (?P<data>.*)",
    rf"@ - (?P<role>{_WORD}) - (?P<type>{LEVEL}) - (?P<data>.*)",
    rf"@ (?P<thread>\d+) (?P<type>{LEVEL}) (?P<role>{_WORD}): (?P<data>.*)",
    rf"@,? +(?P<type>{LEVEL}) +(?P<role>{_WORD}) *[:-] (?P<data>.*)",
    rf"@,? +(?P<type>{LEVEL}) +(?P<role>\w+)  +(?P<data>.*)",
    rf"@ +\[(?P<type>{LEVEL})\] +\[?(?P<role>{_WORD})\]? *[:-] (?P<data>.*)",
    rf"\[@\] +(?P<role>{_WORD})\.(?P<type>{LEVEL}): (?P<data>.*)",
    rf"\[?@\]? +\[?(?P<type>{LEVEL})\]?:? +(?P<data>.*)",
    # syslog, RFC 3164
    r"<(?P<priority>\d+)>@ (?P<host>[\w.:-]+) (?P<role>[^\s:\[]+)(?:\[(?P<pid>\d+)\])? ?: ?(?P<data>.*)",
    r"@ (?P<host>[\w.:-]+) (?P<role>[^\s:\[]+)(?:\[(?P<pid>\d+)\])? ?: ?(?P<data>.*)",
    # chats
    r"\[?@\]? (?:<[ @+%&~]?(?P<role>[^>]+)>|(?P<type>-!-|-->|<--|\*+)) (?P<data>.*)",
    # key=value, in any order: the whole line is data
    r'(?=.*\b(?:component|logger|service|module|app)="?(?P<role>[\w.-]+))(?=.*\b(?:level|lvl|severity)="?(?P<type>\w+))'
    r'.*?\b(?:time|ts|timestamp|t)="?@.*',
    r'(?=.*\b(?:level|lvl|severity)="?(?P<type>\w+)).*?\b(?:time|ts|timestamp|t)="?@.*',
    # anything behind a time; a time anywhere, the whole line is data
    r"\[?@\]?[ \t:|,;-]*(?P<data>.*)",
    r".*?@.*",
)
"""Patterns of lines around a time, `@`. The first one that fits as many lines as any other is taken."""
