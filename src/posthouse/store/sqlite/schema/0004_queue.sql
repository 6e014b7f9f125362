-- The queue: one row for each recipient that is not here, or not now. No release wrote the table of this name before.
--
-- id is content * 2^20 + a number: the rows of a letter lie side by side, and their ids are known before the INSERT.
-- While a row is leased its `due` is the end of the lease, so that one index tells when a destination has something
-- to do, and a lease that nobody renews ends by itself.
DROP TABLE queue;
CREATE TABLE queue (
    id          INTEGER PRIMARY KEY CHECK (id >= 1048576),
    content     INTEGER NOT NULL REFERENCES content (id),
    letter      TEXT    NOT NULL,                 -- as in content: a listing must not read all contents
    destination TEXT    NOT NULL,                 -- the router's name for where it goes
    sender      TEXT    NOT NULL,                 -- the reverse-path, empty for the null one
    recipient   TEXT    NOT NULL,
    notify      TEXT    NOT NULL,                 -- as in message
    orcpt       TEXT,
    size        INTEGER NOT NULL CHECK (size >= 0), -- prefix and content
    state       TEXT    NOT NULL CHECK (state IN ('due', 'held')),
    attempts    INTEGER NOT NULL,
    accepted    REAL    NOT NULL,
    due         REAL    NOT NULL,
    leased      REAL,                             -- until when somebody carries it
    tried       REAL,                             -- when the last attempt ended, and what it was told
    told        INTEGER NOT NULL,                 -- 1 when the sender knows of the delay
    dead        INTEGER NOT NULL,                 -- 1 when the last attempt reached nobody
    reply       TEXT    NOT NULL,
    status      TEXT    NOT NULL,                 -- RFC 3463
    host        TEXT    NOT NULL,
    prefix      BLOB    NOT NULL                  -- the header fields put before the content, without Return-Path
) STRICT;
CREATE INDEX queue_due ON queue (destination, due) WHERE state = 'due';
