-- Where letters go that are not to go where DNS says, or not in the usual way.

CREATE TABLE route (
    pattern  TEXT PRIMARY KEY,                    -- a domain (A-labels) or address literal, *. and a domain, or *
    targets  TEXT    NOT NULL,                    -- host:port in order, parted by blanks; empty: what DNS says
    protocol TEXT    NOT NULL,                    -- smtp or lmtp
    tls      TEXT    NOT NULL,                    -- none, opportunistic, required, verified or implicit
    login    TEXT    NOT NULL,
    secret   BLOB    NOT NULL,                    -- the login's password, sealed (docs/adr/0111); empty: there is none
    schedule TEXT    NOT NULL,                    -- as mail/schedule.py reads it; empty: the server's
    local    INTEGER NOT NULL CHECK (local IN (0, 1)),
    note     TEXT    NOT NULL,
    created  REAL    NOT NULL
) STRICT;
