-- Addresses that stand for others, here or elsewhere.

CREATE TABLE alias (
    address TEXT    PRIMARY KEY,                  -- canonical, as account.address; never one of those
    domain  INTEGER NOT NULL REFERENCES domain (id),
    note    TEXT    NOT NULL,
    created REAL    NOT NULL
) STRICT;
CREATE INDEX alias_domain ON alias (domain);

CREATE TABLE alias_target (
    alias  TEXT    NOT NULL REFERENCES alias (address),
    number INTEGER NOT NULL,                      -- in the order they were given
    target TEXT    NOT NULL,                      -- canonical
    PRIMARY KEY (alias, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX alias_target_target ON alias_target (target);
