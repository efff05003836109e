// Package database opens sessions of Postgres, and knows how a statement is bounded, what its error means and
// how a value is written. It has the one parser of DATABASE_URL, for the worker's
// pool, the migrations and the verbs alike, and it sees to what every session of ours must be: of a
// database that holds text as UTF-8, with values written in one form whatever a role has for other
// programs, and never kept once it can only read.
//
// How many sessions there are, how long a statement may take and how it is planned is for those to say
// who use them.
package database

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ArriveLimit is how long what was written to a connection can still arrive: the kernel sends a
// statement again and again while the server does not acknowledge it, also after the connection was
// closed, and gives up after this time. (On Linux; elsewhere its own limit counts.)
const ArriveLimit = 10 * time.Second

// keepAlive is how long a connection rests until the kernel asks whether the other side is there.
const keepAlive = 15 * time.Second

// forms are the settings that decide how values are written as text, with the values that pgx reads.
// Text is how values go with default_query_exec_mode=exec or simple_protocol, which pgbouncer needs.
var forms = map[string]string{
	"TimeZone": "UTC", "DateStyle": "ISO, MDY", "IntervalStyle": "postgres", "bytea_output": "hex", "extra_float_digits": "1",
	"array_nulls": "on", "client_encoding": "UTF8", "standard_conforming_strings": "on",
}

// Parse reads DATABASE_URL, as a URL or as key=value. Its error may quote the address. What the
// address says of the pool (pool_max_conns and the like) is in what Parse returns; Said tells
// whether it does.
//
// An address of several hosts leads to one that can write, as OnlyReadWrite does.
func Parse(dsn string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	c := config.ConnConfig
	for name, value := range forms {
		Set(c, name, value)
	}
	c.DialFunc = (&net.Dialer{KeepAlive: keepAlive, Control: limitArrival}).DialContext
	c.OnPgError = func(_ *pgconn.PgConn, err *pgconn.PgError) bool {
		// read_only_sql_transaction: a session that can only read may stay so for ever, long after
		// its database, or another host of the address, takes writes again. So it is closed.
		return !Fatal(err) && err.Code != "25006"
	}
	validate := c.ValidateConnect // nil, or what target_session_attrs asks for
	c.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		if encoding := conn.ParameterStatus("server_encoding"); encoding != "UTF8" && encoding != "" {
			return fmt.Errorf("%w, and this one has %s: create one with ENCODING 'UTF8' (and TEMPLATE template0)", ErrEncoding, encoding)
		}
		if validate == nil {
			return nil
		}
		return validate(ctx, conn)
	}
	for _, other := range c.Fallbacks {
		if other.Host != c.Host || other.Port != c.Port { // the same one comes again, with and without TLS
			OnlyReadWrite(config)
			break
		}
	}
	return config, nil
}

// ErrEncoding is the reason why a database is refused that cannot hold every text: JSON may have any
// character as an escape, and Postgres refuses to read what the database's encoding does not have.
var ErrEncoding = errors.New("the database must have the encoding UTF8")

// OnlyReadWrite refuses sessions that can only read, unless the address asks for others
// (target_session_attrs).
func OnlyReadWrite(config *pgxpool.Config) {
	if Said(config, "target_session_attrs") || os.Getenv("PGTARGETSESSIONATTRS") != "" {
		return
	}
	before := config.ConnConfig.ValidateConnect
	config.ConnConfig.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		if before != nil {
			if err := before(ctx, conn); err != nil {
				return err
			}
		}
		return pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, conn)
	}
}

// Said tells whether the address itself gives a parameter, whatever its value.
func Said(config *pgxpool.Config, name string) bool {
	dsn := config.ConnString()
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		u, err := url.Parse(dsn)
		return err == nil && u.Query().Has(name)
	}
	return regexp.MustCompile(`(^|\s)` + regexp.QuoteMeta(name) + `\s*=`).MatchString(dsn)
}

// Set gives each session a value of a setting, in place of any that the address has for it, in
// whichever letters it writes the name.
func Set(c *pgx.ConnConfig, name, value string) {
	for has := range c.RuntimeParams {
		if strings.EqualFold(has, name) {
			delete(c.RuntimeParams, has)
		}
	}
	c.RuntimeParams[name] = value
}

// Default gives each session a value of a setting for which the address has none.
func Default(c *pgx.ConnConfig, name, value string) {
	for has := range c.RuntimeParams {
		if strings.EqualFold(has, name) {
			return
		}
	}
	c.RuntimeParams[name] = value
}

// Fatal says whether Postgres ended the session with this error. Any other error of Postgres means that
// the transaction was rolled back; after one that ends the session it may have been committed.
func Fatal(err *pgconn.PgError) bool {
	severity := err.SeverityUnlocalized
	if severity == "" { // of a pooler that does not pass it on
		severity = err.Severity
	}
	return strings.EqualFold(severity, "FATAL") || strings.EqualFold(severity, "PANIC")
}

// Collation is a version of what sorts text in a database: ICU's or the C library's.
type Collation struct {
	Made string // when the database was made, or told that all is well
	Now  string // of the library that the server has now
}

// Changed says whether another version sorts now. Then an index on text in that order may
// not find what it has.
func (c Collation) Changed() bool { return c.Made != "" && c.Now != "" && c.Made != c.Now }

// ReadCollation asks for the versions of the database's own collation.
func ReadCollation(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) (c Collation, err error) {
	err = db.QueryRow(ctx, `
		SELECT coalesce(datcollversion, ''), coalesce(pg_database_collation_actual_version(oid), '')
		  FROM pg_database WHERE datname = current_database()`).Scan(&c.Made, &c.Now)
	return c, err
}
