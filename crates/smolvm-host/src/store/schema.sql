-- Version 1. Changes go into a numbered file of their own and raise user_version.
CREATE TABLE sandbox (
  seq         INTEGER PRIMARY KEY AUTOINCREMENT,
  id          TEXT NOT NULL UNIQUE,
  state       TEXT NOT NULL,
  generation  INTEGER NOT NULL DEFAULT 0,
  spec        TEXT NOT NULL,
  created_ms  INTEGER NOT NULL,
  expires_ms  INTEGER,
  run         TEXT,
  failure     TEXT,
  exit        TEXT
) STRICT;

CREATE TABLE ledger (
  kind     TEXT NOT NULL,
  key      TEXT NOT NULL,
  sandbox  TEXT NOT NULL REFERENCES sandbox(id) ON DELETE RESTRICT ON UPDATE RESTRICT,
  status   TEXT NOT NULL,
  identity TEXT,
  PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX ledger_by_sandbox ON ledger(sandbox);

-- What all sandboxes of the installation share on the host.
CREATE TABLE shared (
  kind   TEXT NOT NULL,
  key    TEXT NOT NULL,
  before TEXT,
  after  TEXT,
  PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
