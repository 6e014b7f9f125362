-- The store's first form. Everything here is STRICT; times are seconds since 1970-01-01 UTC.
--
-- Foreign keys are declared for the consistency check (PRAGMA foreign_key_check) and not enforced at run time:
-- enforcing them would need an index on message.content, which costs every delivery a page more.

-- One row. `commits` grows by one with each transaction that changes letters or accounts: a copy of the store can be
-- told from a newer one. `uidvalidity` is the greatest ever given (RFC 9051 §2.3.1.1), `content` the last content id.
CREATE TABLE state (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    commits     INTEGER NOT NULL,
    content     INTEGER NOT NULL,
    uidvalidity INTEGER NOT NULL CHECK (uidvalidity BETWEEN 0 AND 4294967295),
    created     REAL    NOT NULL
) STRICT;

CREATE TABLE domain (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    name    TEXT    NOT NULL UNIQUE,             -- lower case, A-labels
    created REAL    NOT NULL
) STRICT;

CREATE TABLE account (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    domain   INTEGER NOT NULL REFERENCES domain (id),
    local    TEXT    NOT NULL,                    -- the part before the @, canonical
    address  TEXT    NOT NULL UNIQUE,             -- canonical: equal addresses are equal texts
    password TEXT    NOT NULL,                    -- PHC string, empty: no login
    quota    INTEGER NOT NULL CHECK (quota >= 0), -- octets, 0: no limit
    created  REAL    NOT NULL
) STRICT;
CREATE INDEX account_local ON account (local);
CREATE INDEX account_domain ON account (domain);

-- A mailbox id never recurs (AUTOINCREMENT): message ids are made of it.
CREATE TABLE mailbox (
    id            INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id BETWEEN 1 AND 2147483647),
    account       INTEGER NOT NULL REFERENCES account (id),
    name          TEXT    NOT NULL,
    uidvalidity   INTEGER NOT NULL CHECK (uidvalidity BETWEEN 1 AND 4294967295),
    uidnext       INTEGER NOT NULL CHECK (uidnext BETWEEN 1 AND 4294967296),
    highestmodseq INTEGER NOT NULL CHECK (highestmodseq >= 1), -- RFC 7162 §3.1.1
    messages      INTEGER NOT NULL CHECK (messages >= 0),
    octets        INTEGER NOT NULL CHECK (octets >= 0),        -- prefixes and contents
    UNIQUE (account, name)
) STRICT;

-- What a letter is, kept once for all its recipients: octets as they came, CRLF lines. A small content lies in
-- `data`, a large one in the file `file` of the content directory; `refs` counts message, tombstone and queue rows.
CREATE TABLE content (
    id       INTEGER PRIMARY KEY,
    letter   TEXT    NOT NULL,                    -- the id that Received and the 250 reply name
    envelope TEXT    NOT NULL,                    -- JSON: sender, and what MAIL asked (RET, ENVID, BODY, SMTPUTF8, AUTH)
    size     INTEGER NOT NULL CHECK (size >= 0),
    checksum INTEGER NOT NULL,                    -- CRC-32 of the octets
    refs     INTEGER NOT NULL CHECK (refs >= 0),
    file     TEXT,
    data     BLOB,
    CHECK ((file IS NULL) <> (data IS NULL))
) STRICT;
CREATE UNIQUE INDEX content_file ON content (file) WHERE file IS NOT NULL;

-- id is mailbox * 2^32 + UID: the messages of a mailbox lie side by side, in the order of their UIDs, and need no
-- index (measured: a WITHOUT ROWID table with rows this long is deeper and slower, a second index costs a page).
CREATE TABLE message (
    id        INTEGER PRIMARY KEY CHECK (id > 4294967296),
    unique_id TEXT    NOT NULL,                   -- 64 random bits, 16 hexadecimal digits (RFC 1939 §7 UIDL)
    content   INTEGER NOT NULL REFERENCES content (id),
    size      INTEGER NOT NULL CHECK (size >= 0), -- prefix and content
    flags     INTEGER NOT NULL,                   -- 1 \Seen, 2 \Answered, 4 \Flagged, 8 \Deleted, 16 \Draft
    retrieved INTEGER NOT NULL,                   -- 1 when POP3 retrieved it in an earlier session
    eight_bit INTEGER NOT NULL,                   -- 1 when an octet over 127 stands in prefix or content header
    modseq    INTEGER NOT NULL,
    received  REAL    NOT NULL,                   -- internal date (RFC 9051 §2.3.3)
    saved     REAL    NOT NULL,                   -- save date (RFC 8514)
    keywords  TEXT    NOT NULL,                   -- parted by spaces
    recipient TEXT    NOT NULL,                   -- the forward-path's address as RCPT gave it
    notify    TEXT    NOT NULL,                   -- of NEVER, SUCCESS, FAILURE, DELAY, parted by commas (RFC 3461 §4.1)
    orcpt     TEXT,                               -- RFC 3461 §4.2
    prefix    BLOB    NOT NULL                    -- the header fields this delivery put before the content
) STRICT;

-- Expunged messages. Deletes are final at once today; undelete and QRESYNC will leave rows here. A row that can be
-- brought back holds a reference to its content; one that only tells that a UID is gone has content NULL.
CREATE TABLE tombstone (
    id        INTEGER PRIMARY KEY,
    unique_id TEXT    NOT NULL,
    content   INTEGER REFERENCES content (id),
    size      INTEGER NOT NULL,
    flags     INTEGER NOT NULL,
    retrieved INTEGER NOT NULL,
    eight_bit INTEGER NOT NULL,
    modseq    INTEGER NOT NULL,                   -- of the expunge
    received  REAL    NOT NULL,
    saved     REAL    NOT NULL,
    keywords  TEXT    NOT NULL,
    recipient TEXT    NOT NULL,
    notify    TEXT    NOT NULL,
    orcpt     TEXT,
    prefix    BLOB    NOT NULL,
    expunged  REAL    NOT NULL
) STRICT;
CREATE INDEX tombstone_expunged ON tombstone (expunged);

-- What must still be carried on: one row for each recipient that is not here, or not now.
CREATE TABLE queue (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    content   INTEGER NOT NULL REFERENCES content (id),
    sender    TEXT    NOT NULL,                   -- the reverse-path, empty for the null one
    recipient TEXT    NOT NULL,
    route     TEXT    NOT NULL,                   -- the domain or smarthost it goes to
    notify    TEXT    NOT NULL,
    orcpt     TEXT,
    prefix    BLOB    NOT NULL,
    state     TEXT    NOT NULL CHECK (state IN ('due', 'held')),
    attempts  INTEGER NOT NULL,
    accepted  REAL    NOT NULL,
    due       REAL    NOT NULL,
    lease     TEXT,                               -- who is working on it
    leased    REAL,                               -- until when
    reply     TEXT                                -- what the last attempt was told
) STRICT;
CREATE INDEX queue_due ON queue (due) WHERE state = 'due';
CREATE INDEX queue_route ON queue (route, due);
