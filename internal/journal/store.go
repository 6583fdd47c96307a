package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	dbName = "journal.db"
	schema = `
CREATE TABLE IF NOT EXISTS events (
	seq  INTEGER PRIMARY KEY,
	hash BLOB NOT NULL,
	raw  BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS snapshots (
	seq       INTEGER PRIMARY KEY,
	hash      BLOB NOT NULL,
	build     TEXT NOT NULL,
	state     BLOB NOT NULL,
	signature BLOB NOT NULL
) STRICT;
PRAGMA user_version = 1;`
	schemaVersion = 1
)

// errUnknown marks an error after which nobody knows whether it was stored.
var errUnknown = errors.New("it is unknown whether it was stored")

// store is the SQLite file. It has one connection.
type store struct {
	db *sql.DB
}

// openStore opens the file for writing and makes it if it is absent. The
// exclusive locking mode keeps the index of the write-ahead log in memory, and
// other programs out.
func openStore(ctx context.Context, path string) (*store, error) {
	s, err := connect(path, url.Values{
		"_pragma": {"locking_mode(EXCLUSIVE)", "journal_mode(WAL)", "synchronous(FULL)", "trusted_schema(OFF)", "cell_size_check(ON)"},
	})
	if err != nil {
		return nil, err
	}
	if _, err := s.db.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// openStoreReadOnly opens the file without changing a byte of it or of its
// write-ahead log, not even when it is closed: what is damaged stays as it is,
// for whoever wants to mend it.
func openStoreReadOnly(path string) (*store, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	return connect(path, url.Values{
		"mode":    {"ro"},
		"_pragma": {"query_only(ON)", "trusted_schema(OFF)", "cell_size_check(ON)"},
	})
}

func connect(path string, query url.Values) (*store, error) {
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return &store{db: db}, nil
}

// version returns the version of the schema, 0 if it is not there yet. A newer
// one is an error.
func (s *store) version(ctx context.Context) (int, error) {
	var version int
	if err := s.db.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
		return 0, err
	}
	if version > schemaVersion {
		return 0, fmt.Errorf("its format is version %d, and this kiln knows version %d", version, schemaVersion)
	}
	return version, nil
}

func (s *store) close() error { return s.db.Close() }

// insert stores the entries, all or none. If the error is errUnknown, nobody
// knows which.
func (s *store) insert(ctx context.Context, entries []Entry) error {
	return s.transact(ctx, func(conn *sql.Conn) error {
		for _, e := range entries {
			_, err := conn.ExecContext(ctx, `INSERT INTO events (seq, hash, raw) VALUES (?, ?, ?)`, int64(e.Event.Seq), e.Hash[:], e.Raw)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// transact runs do in a transaction. A failed commit leaves it unknown whether
// it took place, but for a full disk: then the frame that makes a transaction
// valid, the last one that is written, did not find room.
func (s *store) transact(ctx context.Context, do func(*sql.Conn) error) (err error) {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.ExecContext(ctx, `BEGIN IMMEDIATE`); err != nil {
		return err
	}
	err, unknown := do(conn), false
	if err == nil {
		_, err = conn.ExecContext(ctx, `COMMIT`)
		unknown = err != nil && !isFull(err)
	}
	if err == nil {
		return nil
	}
	// SQLite may have rolled back by itself: then there is nothing to undo.
	if _, undo := conn.ExecContext(ctx, `ROLLBACK`); undo != nil && !strings.Contains(undo.Error(), "no transaction is active") {
		err, unknown = errors.Join(err, undo), true
	}
	if unknown {
		return errors.Join(errUnknown, err)
	}
	return err
}

// isFull reports whether there was no room on the disk.
func isFull(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == sqlite3.SQLITE_FULL
}

// scan calls row for up to limit events after the given one, in their order.
// The slices are valid during the call only.
func (s *store) scan(ctx context.Context, after uint64, limit int, row func(seq uint64, hash, raw []byte) error) (err error) {
	rows, err := s.db.QueryContext(ctx, `SELECT seq, hash, raw FROM events WHERE seq > ? ORDER BY seq LIMIT ?`, int64(after), limit)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var seq int64
		var hash, raw sql.RawBytes
		if err := rows.Scan(&seq, &hash, &raw); err != nil {
			return err
		}
		if err := row(uint64(seq), hash, raw); err != nil {
			return err
		}
	}
	return rows.Err()
}

// storedSnapshot is a row of snapshots.
type storedSnapshot struct {
	head      Head
	build     string
	state     []byte
	signature []byte
}

// snapshot returns the newest snapshot, false if there is none.
func (s *store) snapshot(ctx context.Context) (storedSnapshot, bool, error) {
	var snap storedSnapshot
	var hash []byte
	err := s.db.QueryRowContext(ctx, `SELECT seq, hash, build, state, signature FROM snapshots ORDER BY seq DESC LIMIT 1`).
		Scan(&snap.head.Seq, &hash, &snap.build, &snap.state, &snap.signature)
	if errors.Is(err, sql.ErrNoRows) {
		return snap, false, nil
	}
	if err != nil {
		return snap, false, err
	}
	copy(snap.head.Hash[:], hash)
	return snap, len(hash) == len(snap.head.Hash), nil
}

// replaceSnapshot makes snap the only one.
func (s *store) replaceSnapshot(ctx context.Context, snap storedSnapshot) error {
	return s.transact(ctx, func(conn *sql.Conn) error {
		if _, err := conn.ExecContext(ctx, `DELETE FROM snapshots`); err != nil {
			return err
		}
		_, err := conn.ExecContext(ctx, `INSERT INTO snapshots (seq, hash, build, state, signature) VALUES (?, ?, ?, ?, ?)`,
			int64(snap.head.Seq), snap.head.Hash[:], snap.build, snap.state, snap.signature)
		return err
	})
}
