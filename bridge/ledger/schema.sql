-- The ledger's tables (SQLite), all of them. Applied as one migration by store.py; a table that is there stays.
-- Times are seconds since 1970, those of files nanoseconds; IDs of entries are texts, `MILLISECONDS-NUMBER`.

-- Who this ledger is (`ledger`), and by which of its births files are vouched for (`begun STREAM`).
CREATE TABLE IF NOT EXISTS "identity" (
    "name" TEXT PRIMARY KEY, "value" TEXT
);

-- What was last seen of each stream, the mirror's cursor, and how many entries the mirror came by.
CREATE TABLE IF NOT EXISTS "streams" (
    "stream" TEXT PRIMARY KEY, "last_id" TEXT, "added" INTEGER, "mirror_cursor" TEXT, "first_id" TEXT,
    "timeline" TEXT, "commits" INTEGER, "mirror_seen" INTEGER, "mirror_ours" INTEGER, "mirror_gone" INTEGER,
    "mirror_acknowledged" INTEGER
);

-- How far each source was carried, as Redis confirmed it last.
CREATE TABLE IF NOT EXISTS "sources" (
    "stream" TEXT, "name" TEXT, "number" INTEGER, "stored" BLOB, "live" INTEGER, "history_generation" INTEGER,
    "history_offset" INTEGER, "refill_generation" INTEGER, "refill_offset" INTEGER, PRIMARY KEY ("stream", "name")
);

-- The generations of each source: what each is known by, and whether it was carried to its end.
CREATE TABLE IF NOT EXISTS "generations" (
    "stream" TEXT, "name" TEXT, "number" INTEGER, "device" TEXT, "inode" TEXT, "generation" INTEGER,
    "offset" INTEGER, "head_len" INTEGER, "head" TEXT, "tail" TEXT, "closed" INTEGER, "packed_size" INTEGER,
    "packed_mtime" INTEGER, "born" INTEGER, "written" INTEGER, "decided" TEXT, "rewrites" INTEGER,
    "in_doubt" INTEGER, "crc" INTEGER, PRIMARY KEY ("stream", "name", "number")
);

-- Lines that the mirror is about to write: noted before the write, gone when their range is noted.
CREATE TABLE IF NOT EXISTS "intents" (
    "id" INTEGER PRIMARY KEY, "stream" TEXT, "name" TEXT, "generation" INTEGER, "size" INTEGER, "content" BLOB,
    "entries" BLOB, "noted" BLOB
);
CREATE INDEX IF NOT EXISTS "idx_intents_stream"
    ON "intents" ("stream");

-- Bytes of each generation that the mirror wrote, and the entries they were made of.
CREATE TABLE IF NOT EXISTS "ranges" (
    "stream" TEXT, "name" TEXT, "generation" INTEGER, "start" INTEGER, "end" INTEGER, "digest" BLOB, "entries" BLOB,
    "last_ms" INTEGER, PRIMARY KEY ("stream", "name", "generation", "start")
);

-- Lines that cannot be entries, and entries that cannot be lines.
CREATE TABLE IF NOT EXISTS "quarantine" (
    "id" INTEGER PRIMARY KEY, "stream" TEXT, "direction" TEXT, "name" TEXT, "generation" INTEGER, "offset" INTEGER,
    "entry_id" TEXT, "reason" TEXT, "raw" BLOB, "length" INTEGER, "digest" TEXT, "noted_at" REAL, "retried" TEXT,
    "retried_at" REAL, "lost" INTEGER, "acknowledged" TEXT, "acknowledged_at" REAL
);
CREATE UNIQUE INDEX IF NOT EXISTS "idx_quarantine_stream_direction_name_generation_offset_entry_id"
    ON "quarantine" ("stream", "direction", "name", "generation", "offset", "entry_id");

-- The last trouble of each worker.
CREATE TABLE IF NOT EXISTS "health" (
    "worker" TEXT PRIMARY KEY, "error" TEXT, "hint" TEXT, "since" REAL, "over" REAL
);

-- The last heartbeat of each instance.
CREATE TABLE IF NOT EXISTS "heartbeat" (
    "instance" TEXT PRIMARY KEY, "pulse" TEXT
);

-- Runs of import-history.
CREATE TABLE IF NOT EXISTS "imports" (
    "id" INTEGER PRIMARY KEY, "stream" TEXT, "began" REAL, "report" TEXT
);
CREATE INDEX IF NOT EXISTS "idx_imports_stream"
    ON "imports" ("stream");

-- Runs of parity.
CREATE TABLE IF NOT EXISTS "parity" (
    "id" INTEGER PRIMARY KEY, "mapping" TEXT, "stream" TEXT, "began" REAL, "seconds" REAL, "who" TEXT,
    "verdict" TEXT, "report" TEXT
);
CREATE INDEX IF NOT EXISTS "idx_parity_stream"
    ON "parity" ("stream");

-- Up to where each stream and its files were found equal.
CREATE TABLE IF NOT EXISTS "verified" (
    "stream" TEXT PRIMARY KEY, "position" TEXT
);

-- Who changed what by hand, when, on what evidence.
CREATE TABLE IF NOT EXISTS "journal" (
    "id" INTEGER PRIMARY KEY, "at" REAL, "who" TEXT, "what" TEXT, "stream" TEXT, "facts" TEXT
);
CREATE INDEX IF NOT EXISTS "idx_journal_stream"
    ON "journal" ("stream");

-- Messages of spools that were carried, either way.
CREATE TABLE IF NOT EXISTS "spool_messages" (
    "stream" TEXT, "key" BLOB, "alike" BLOB, "batch" INTEGER, "place" INTEGER, "digest" BLOB, "written" INTEGER,
    "inode" TEXT, "mirrored" TEXT, PRIMARY KEY ("stream", "key")
);
CREATE INDEX IF NOT EXISTS "idx_spool_messages_stream_alike_written"
    ON "spool_messages" ("stream", "alike", "written");
CREATE INDEX IF NOT EXISTS "idx_spool_messages_stream_batch_place"
    ON "spool_messages" ("stream", "batch", "place");

-- Files of spools, and the messages that they hold.
CREATE TABLE IF NOT EXISTS "spool_files" (
    "stream" TEXT, "name" BLOB, "size" INTEGER, "written" INTEGER, "device" TEXT, "inode" TEXT, "key" BLOB,
    PRIMARY KEY ("stream", "name")
);
CREATE INDEX IF NOT EXISTS "idx_spool_files_stream_key"
    ON "spool_files" ("stream", "key");

-- Messages of spools that are to be sent, with the batch they were given.
CREATE TABLE IF NOT EXISTS "spool_due" (
    "stream" TEXT, "key" BLOB, "alike" BLOB, "batch" INTEGER, "place" INTEGER, "digest" BLOB, "name" BLOB,
    "time" INTEGER, "size" INTEGER, "written" INTEGER, "device" TEXT, "inode" TEXT, "raw" BLOB,
    PRIMARY KEY ("stream", "key")
);
CREATE INDEX IF NOT EXISTS "idx_spool_due_stream_batch_time_name"
    ON "spool_due" ("stream", "batch", "time", "name");
CREATE INDEX IF NOT EXISTS "idx_spool_due_stream_alike_written"
    ON "spool_due" ("stream", "alike", "written");
CREATE INDEX IF NOT EXISTS "idx_spool_due_stream_name"
    ON "spool_due" ("stream", "name");

-- What was last carried of each state.
CREATE TABLE IF NOT EXISTS "state_values" (
    "stream" TEXT, "name" BLOB, "sha256" TEXT, "timestamp" BLOB, "version" INTEGER, PRIMARY KEY ("stream", "name")
);

-- Artifacts that lines named, until their digests are in Redis.
CREATE TABLE IF NOT EXISTS "mentions" (
    "stream" TEXT, "name" TEXT, "generation" INTEGER, "offset" INTEGER, "path" BLOB,
    PRIMARY KEY ("stream", "name", "generation", "offset")
);

-- Retired mappings.
CREATE TABLE IF NOT EXISTS "retired" (
    "stream" TEXT PRIMARY KEY, "mapping" TEXT, "at" REAL, "who" TEXT, "ending" BLOB
);

-- Components that write both sides themselves: from which entry to which.
CREATE TABLE IF NOT EXISTS "twofold" (
    "id" INTEGER PRIMARY KEY, "stream" TEXT, "component" TEXT, "roles" TEXT, "ended" INTEGER, "entry_from" TEXT,
    "entry_to" TEXT, "token" TEXT, "asked_at" REAL
);
CREATE INDEX IF NOT EXISTS "idx_twofold_stream"
    ON "twofold" ("stream");

-- The same in each file: from where to where.
CREATE TABLE IF NOT EXISTS "twofold_files" (
    "stretch" INTEGER, "name" TEXT, "from_generation" INTEGER, "from_offset" INTEGER, "to_generation" INTEGER,
    "to_offset" INTEGER, PRIMARY KEY ("stretch", "name")
);

-- Which side owns the values of each state.
CREATE TABLE IF NOT EXISTS "state_owners" (
    "stream" TEXT PRIMARY KEY, "owner" TEXT, "component" TEXT, "asked" TEXT, "token" TEXT, "asked_at" REAL,
    "noted" INTEGER
);

-- Positions up to which parity found both sides equal: up to one of them a stream may be trimmed.
CREATE TABLE IF NOT EXISTS "points" (
    "stream" TEXT, "entry" TEXT, "added" INTEGER, "position" TEXT, PRIMARY KEY ("stream", "entry")
);

-- What was trimmed of each stream.
CREATE TABLE IF NOT EXISTS "trimmed" (
    "stream" TEXT PRIMARY KEY, "floor" BLOB, "count" INTEGER, "origins" TEXT, "base" TEXT
);

-- The last report of retention for each stream.
CREATE TABLE IF NOT EXISTS "retention" (
    "stream" TEXT PRIMARY KEY, "at" REAL, "report" TEXT
);

-- Entries that were archived together.
CREATE TABLE IF NOT EXISTS "archive_spans" (
    "stream" TEXT, "last" TEXT, "first" TEXT, "base" TEXT, PRIMARY KEY ("stream", "last")
);

-- Where in which file of the archive the entries of a span lie.
CREATE TABLE IF NOT EXISTS "archive_parts" (
    "stream" TEXT, "span" TEXT, "number" INTEGER, "path" TEXT, "name" TEXT, "at" INTEGER, "size" INTEGER,
    "digest" BLOB, "entries" BLOB, "listed" BLOB, PRIMARY KEY ("stream", "span", "number")
);
CREATE INDEX IF NOT EXISTS "idx_archive_parts_stream_path"
    ON "archive_parts" ("stream", "path");

-- Up to where the files of the archive are valid.
CREATE TABLE IF NOT EXISTS "archive_ends" (
    "stream" TEXT, "path" TEXT, "until" INTEGER, PRIMARY KEY ("stream", "path")
);

-- Files of the archive that are being written, and from where.
CREATE TABLE IF NOT EXISTS "archive_begun" (
    "stream" TEXT, "path" TEXT, "at" INTEGER, PRIMARY KEY ("stream", "path")
);

-- The processes that carried each stream with this ledger.
CREATE TABLE IF NOT EXISTS "nonces" (
    "id" INTEGER PRIMARY KEY, "stream" TEXT, "nonce" TEXT, "place" TEXT
);
CREATE INDEX IF NOT EXISTS "idx_nonces_stream"
    ON "nonces" ("stream");

-- Entries that each direction saw last in a stream.
CREATE TABLE IF NOT EXISTS "seen" (
    "stream" TEXT, "way" TEXT, "entries" TEXT, PRIMARY KEY ("stream", "way")
);

-- Bytes that the mirror put out, for each file or folder.
CREATE TABLE IF NOT EXISTS "witness" (
    "stream" TEXT, "label" TEXT, "put" INTEGER, "base" TEXT, "removed" INTEGER, PRIMARY KEY ("stream", "label")
);

-- Mirrored lines whose entries Redis lost: they are the file's own now.
CREATE TABLE IF NOT EXISTS "released" (
    "stream" TEXT, "entry" TEXT, "digest" BLOB, "name" TEXT, "generation" INTEGER, "start" INTEGER,
    "length" INTEGER, PRIMARY KEY ("stream", "entry")
);

-- Files of spools that a rebuilt ledger could not read yet.
CREATE TABLE IF NOT EXISTS "spool_unread" (
    "stream" TEXT, "name" BLOB, PRIMARY KEY ("stream", "name")
);

-- Limits of retention that somebody confirmed.
CREATE TABLE IF NOT EXISTS "confirmed" (
    "stream" TEXT PRIMARY KEY, "limits" TEXT, "at" REAL, "who" TEXT
);

-- Files that are no generation: left alone, a copy, late, edited, or unaccounted for.
CREATE TABLE IF NOT EXISTS "pieces" (
    "stream" TEXT, "path" TEXT, "standing" TEXT, "why" TEXT, "at" REAL, "facts" TEXT, "bytes" INTEGER, "who" TEXT,
    PRIMARY KEY ("stream", "path")
);

-- Lines of an edited log that were carried before, as another generation's.
CREATE TABLE IF NOT EXISTS "aligned" (
    "stream" TEXT, "name" TEXT, "generation" INTEGER, "start" INTEGER, "end" INTEGER, "of" INTEGER,
    "of_start" INTEGER, "crc" INTEGER, PRIMARY KEY ("stream", "name", "generation", "start")
);

-- What was found of each file that took a log's place.
CREATE TABLE IF NOT EXISTS "rewrites" (
    "stream" TEXT, "name" TEXT, "generation" INTEGER, "of" INTEGER, "at" REAL, "how" TEXT, "passed" INTEGER,
    "changed" INTEGER, "put_in" INTEGER, "taken_out" INTEGER, "again" INTEGER, "why" TEXT,
    PRIMARY KEY ("stream", "name", "generation")
);

-- Differences of parity that somebody acknowledged.
CREATE TABLE IF NOT EXISTS "accepted" (
    "id" INTEGER PRIMARY KEY, "stream" TEXT, "kind" TEXT, "first" TEXT, "last" TEXT, "count" INTEGER, "digest" TEXT,
    "at" REAL, "who" TEXT, "why" TEXT
);

-- Entries that were deleted on purpose.
CREATE TABLE IF NOT EXISTS "redacted" (
    "stream" TEXT, "entry" TEXT, "name" TEXT, "generation" INTEGER, "offset" INTEGER, "length" INTEGER,
    "digest" TEXT, "at" REAL, "who" TEXT, "why" TEXT, PRIMARY KEY ("stream", "entry")
);

-- Parts of the archive out of which redacted lines may be taken.
CREATE TABLE IF NOT EXISTS "redacted_parts" (
    "stream" TEXT, "path" TEXT, "at" INTEGER, "pieces" TEXT, "entries" BLOB, PRIMARY KEY ("stream", "path", "at")
);

-- Names of the streams of a mapping with many, each fixed as its log is first carried. "key" is the mapping's
-- stream.key, with {name} in it.
CREATE TABLE IF NOT EXISTS "stream_names" (
    "key" TEXT, "log" TEXT, "name" TEXT, "at" REAL, PRIMARY KEY ("key", "log")
);
