-- Who may do what: networks and their rights, and the senders that an account may name beside itself.

CREATE TABLE network (
    network TEXT PRIMARY KEY,                     -- as Python's ipaddress writes it; never an IPv4-mapped one
    rights  TEXT NOT NULL,                        -- words of policy/access.py, parted by blanks
    until   REAL,                                 -- when it ends, NULL: never
    note    TEXT NOT NULL,
    created REAL NOT NULL
) STRICT;

CREATE TABLE sender (
    account INTEGER NOT NULL REFERENCES account (id),
    pattern TEXT    NOT NULL,                     -- Address.key, or *@ and a domain
    created REAL    NOT NULL,
    PRIMARY KEY (account, pattern)
) STRICT, WITHOUT ROWID;
