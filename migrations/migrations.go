// Package migrations holds the schema and brings a database to it, or back.
//
// The steps are plain SQL files, embedded, run by goose, each in a transaction
// unless it says otherwise.
// Several replicas may start at once: those that come second wait for the
// session lock and then find nothing to do. The version before a step can live
// with the schema after it; that is why Check accepts a database that is ahead.
// So, once a version is released, a step adds, and never renames or drops what
// the version before uses.
//
// The lock belongs to a session. Behind pgbouncer in transaction mode run
// `worker migrate up` against Postgres itself and start the workers with
// MIGRATE=false.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"flexworker/internal/database"
)

//go:embed *.sql
var files embed.FS

// versionTable is where goose notes the steps that were taken. It is not that of
// the versions before the first release, whose steps were other ones.
const versionTable = "outbox_migrations"

// lockPeriod and lockTries bound the wait for another replica's migration: one
// try a second for five minutes.
const (
	lockPeriod = 1
	lockTries  = 300
)

// A Step is one migration and whether the database has it.
type Step struct {
	Version int64
	Name    string
	Applied bool
}

// Up takes every step that the database at dsn lacks and returns how many that
// were. It takes no lock when there is nothing to do. After an error the steps
// before the failing one stay; Up may be called again.
func Up(ctx context.Context, dsn string) (int, error) {
	p, done, err := open(dsn)
	if err != nil {
		return 0, err
	}
	defer done()
	pending, err := p.HasPending(ctx)
	if err != nil || !pending {
		return 0, wrap("up", err)
	}
	results, err := p.Up(ctx)
	return len(results), wrap("up", err)
}

// Down takes the latest step back and returns its name, "" when there was none.
// It drops tables with what is in them.
func Down(ctx context.Context, dsn string) (string, error) {
	p, done, err := open(dsn)
	if err != nil {
		return "", err
	}
	defer done()
	result, err := p.Down(ctx)
	if errors.Is(err, goose.ErrNoNextVersion) {
		return "", nil
	}
	if err != nil {
		return "", wrap("down", err)
	}
	return result.Source.Path, nil
}

// Drops names the step that Down would take back, and the tables that go with it, with
// all their rows; no step: there is none, no tables: only views or the like go.
func Drops(ctx context.Context, dsn string) (step string, tables []string, err error) {
	steps, err := Status(ctx, dsn)
	if err != nil {
		return "", nil, err
	}
	for _, s := range steps {
		if s.Applied {
			step = s.Name
		}
	}
	if step == "" {
		return "", nil, nil
	}
	text, err := files.ReadFile(step)
	if err != nil {
		return "", nil, wrap("read", err)
	}
	_, down, _ := strings.Cut(string(text), "-- +goose Down")
	for _, m := range dropsTable.FindAllStringSubmatch(down, -1) {
		tables = append(tables, m[1])
	}
	return step, tables, nil
}

// dropsTable finds what a step back drops: one table a statement, as our files are written.
var dropsTable = regexp.MustCompile(`(?m)^DROP TABLE (\w+);`)

// Status lists all steps in order.
func Status(ctx context.Context, dsn string) ([]Step, error) {
	p, done, err := open(dsn)
	if err != nil {
		return nil, err
	}
	defer done()
	all, err := p.Status(ctx)
	if err != nil {
		return nil, wrap("status", err)
	}
	steps := make([]Step, len(all))
	for i, s := range all {
		steps[i] = Step{Version: s.Source.Version, Name: s.Source.Path, Applied: s.State == goose.StateApplied}
	}
	return steps, nil
}

// ErrBehind is what Check returns for a database that lacks steps this program
// needs, also for an empty one.
var ErrBehind = errors.New("the database's schema is behind this version: run `worker migrate up`, or start with MIGRATE=true")

// ErrNoSchema is returned where search_path leads nowhere: there is no place for our
// tables, and none where they could be found.
var ErrNoSchema = errors.New("no schema that search_path names exists, or this role has no USAGE on it: create it, grant it, or have search_path name another (in DATABASE_URL, or of the role or the database)")

// Check asks with one short query whether the database has the schema that this
// program needs. A database that is ahead is accepted.
func Check(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) error {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return wrap("check", err)
	}
	var placeless, there bool
	if err := db.QueryRow(ctx, `SELECT current_schema() IS NULL, to_regclass('`+versionTable+`') IS NOT NULL`).Scan(&placeless, &there); err != nil {
		return wrap("check", err)
	}
	if placeless {
		return ErrNoSchema
	}
	if !there {
		return ErrBehind
	}
	var version int
	if err := db.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM `+versionTable).Scan(&version); err != nil {
		return wrap("check", err)
	}
	// The files are numbered from 1 without a gap, so their number is our version.
	if version < len(names) {
		return ErrBehind
	}
	return nil
}

// open gives a goose provider on connections of its own, and what closes them.
func open(dsn string) (*goose.Provider, func(), error) {
	config, err := database.Parse(dsn)
	if err != nil { // which quotes the address
		return nil, nil, wrap("open", errors.New("the address of the database is not one"))
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(lockPeriod, lockTries))
	if err != nil {
		return nil, nil, wrap("open", err)
	}
	db := stdlib.OpenDB(*config.ConnConfig, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		var placed bool
		if err := conn.QueryRow(ctx, `SELECT current_schema() IS NOT NULL`).Scan(&placed); err != nil {
			return err
		}
		if !placed {
			return ErrNoSchema
		}
		return nil
	}))
	p, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithSessionLocker(locker), goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, nil, errors.Join(wrap("open", err), db.Close())
	}
	// Closing only gives connections back; nothing is lost if it fails.
	return p, func() { _ = p.Close() }, nil
}

func wrap(verb string, err error) error {
	if err == nil {
		return nil
	}
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.Code == "42501" {
		return fmt.Errorf("migrations: %s: this role may not change the schema: run `worker migrate up` as the role that owns it, and the workers with MIGRATE=false: %w", verb, err)
	}
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.Code == "42P07" {
		return fmt.Errorf("migrations: %s: the database has tables of the same names that these migrations did not make, such as those of a version before the first release: use another database or schema: %w", verb, err)
	}
	return fmt.Errorf("migrations: %s: %w", verb, err)
}
