-- What an account can log in with beside the hash of its password.

-- Octets that are secret and the store's own, such as the key of the digests below. Filled when the form is made.
CREATE TABLE secret (
    name   TEXT PRIMARY KEY,
    octets BLOB NOT NULL
) STRICT;

-- One row with an empty name for the account's own password, one for each app password.
CREATE TABLE credential (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    account   INTEGER NOT NULL REFERENCES account (id),
    name      TEXT    NOT NULL,
    protocols TEXT    NOT NULL,                   -- parted by commas, empty for all
    digest    BLOB    NOT NULL,                   -- of an app password, keyed (docs/adr/0051); empty for the own one
    scram     TEXT    NOT NULL,                   -- what SCRAM keeps (RFC 5803 §2), empty for nothing
    shared    BLOB    NOT NULL,                   -- the password itself, sealed; empty where it is not kept
    created   REAL    NOT NULL,
    used      REAL    NOT NULL,                   -- the last login with an app password, about; 0 for never
    UNIQUE (account, name)
) STRICT;
