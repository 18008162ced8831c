"""Formats of strings in a JSON schema, as expressions of a grammar: a part of each, all valid."""

from typing import NamedTuple


class Format(NamedTuple):
    """What a string looks like, and how many characters it has at least and at most."""

    rule: str
    least: int
    most: float


_DATE = '[1-9] [0-9]{3} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])'
_TIME = '("0" [0-9] | "1" [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,3})? "Z"'

_SECONDS = '[0-9]{1,3} "S"'
_MINUTES = f'[0-9]{{1,3}} "M" ({_SECONDS})?'
_HOURS = f'[0-9]{{1,3}} "H" ({_MINUTES})?'
_CLOCK = f'"T" ({_SECONDS} | {_MINUTES} | {_HOURS})'
_DAYS = '[0-9]{1,3} "D"'
_MONTHS = f'[0-9]{{1,3}} "M" ({_DAYS})?'
_YEARS = f'[0-9]{{1,3}} "Y" ({_MONTHS})?'
_DURATION = f'"P" ([0-9]{{1,3}} "W" | ({_DAYS} | {_MONTHS} | {_YEARS}) ({_CLOCK})? | {_CLOCK})'

_OCTET = '("25" [0-5] | "2" [0-4] [0-9] | "1" [0-9] [0-9] | [1-9] [0-9] | [0-9])'
_GROUP = "[0-9a-f]{1,4}"
_GROUPS = f'{_GROUP} (":" {_GROUP})'
_IPV6 = f'{_GROUPS}{{7}} | {_GROUPS}{{0,3}} "::" {_GROUPS}{{0,2}} | "::" {_GROUPS}{{0,5}}'

# Never "--" in a label, which means something of its own at the third place.
_HOST = (
    '([a-zA-Z0-9]{1,31} ("-" [a-zA-Z0-9]{1,15}){0,2} "."){0,2}'
    ' [a-zA-Z] [a-zA-Z0-9]{0,30} ("-" [a-zA-Z0-9]{1,15})?'
)
_NAMED = '[a-zA-Z0-9]{1,31} ("-" [a-zA-Z0-9]{1,15}){0,2}'
_MAIL = (
    '[a-zA-Z0-9_+-]{1,24} ("." [a-zA-Z0-9_+-]{1,24})? "@"'
    f' {_NAMED} ("." {_NAMED}){{0,1}} "." [a-zA-Z]{{2,10}}'
)
_SIGN = '([a-zA-Z0-9._~-] | "%" [0-9A-F] [0-9A-F] | [!$&()*+,;=:@])'
_URI = (
    f'[a-z] [a-z0-9]{{0,15}} "://" {_HOST} (":" [1-9] [0-9]{{0,3}})? ("/" {_SIGN}{{0,40}}){{0,4}}'
    f' ("?" {_SIGN}{{0,40}})? ("#" {_SIGN}{{0,20}})?'
)
_POINTER = '("/" [a-zA-Z0-9_-]{0,30}){0,8}'

_ADDRESS = Format(_MAIL, 6, 190)
_LINK = Format(_URI, 5, 950)
FORMATS = {
    "date": Format(_DATE, 10, 10),
    "time": Format(_TIME, 9, 13),
    "date-time": Format(f'{_DATE} "T" {_TIME}', 20, 24),
    "duration": Format(_DURATION, 3, 26),
    "uuid": Format(' "-" '.join(f"[0-9a-f]{{{count}}}" for count in (8, 4, 4, 4, 12)), 36, 36),
    "email": _ADDRESS,
    "idn-email": _ADDRESS,
    "hostname": Format(_HOST, 1, 180),
    "idn-hostname": Format(_HOST, 1, 180),
    "ipv4": Format(' "." '.join([_OCTET] * 4), 7, 15),
    "ipv6": Format(_IPV6, 3, 39),
    "uri": _LINK,
    "uri-reference": _LINK,
    "uri-template": _LINK,
    "iri": _LINK,
    "iri-reference": _LINK,
    "json-pointer": Format(_POINTER, 0, 250),
    "relative-json-pointer": Format(f"[0-9] {_POINTER}", 1, 250),
    "regex": Format("[a-zA-Z0-9 ]{0,100}", 0, 100),
}
