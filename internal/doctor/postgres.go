package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/migrations"
)

// askLimit is how long one question may take.
const askLimit = 5 * time.Second

// Grants are what a worker's role has to have, by table and view, as docs/operating.md lists them. A right to one column
// alone names the column.
var Grants = map[string][]string{
	"outbox": {"SELECT", "INSERT", "UPDATE", "DELETE"}, "outbox_malformed": {"SELECT", "INSERT", "UPDATE", "DELETE"}, "outbox_repeats": {"SELECT", "INSERT", "UPDATE", "DELETE"},
	"outbox_setups": {"SELECT", "INSERT", "UPDATE", "DELETE"}, "outbox_confirmation": {"SELECT", "UPDATE"},
	"outbox_attempts": {"SELECT", "INSERT", "DELETE", "UPDATE (error)"}, "outbox_acts": {"SELECT", "INSERT", "UPDATE (why)"}, "outbox_idempotency_keys": {"SELECT", "INSERT", "UPDATE", "DELETE"},
	"outbox_gate": {"SELECT", "UPDATE"}, "outbox_replicas": {"SELECT", "INSERT", "UPDATE", "DELETE"}, "outbox_minutes": {"SELECT", "INSERT", "DELETE"},
	"outbox_counted": {"SELECT", "UPDATE"}, "outbox_migrations": {"SELECT"}, "outbox_backlog": {"SELECT"}, "outbox_attention": {"SELECT"},
	"outbox_failures": {"SELECT"}, "outbox_funnel": {"SELECT"},
}

// leastVersion is the oldest Postgres that the worker is tested on, as server_version_num.
const leastVersion = 150000

// Postgres asks the database. migrate is MIGRATE: a worker brings the schema up to date at its start.
func (r *Report) Postgres(ctx context.Context, pool *pgxpool.Pool, migrate bool) {
	const server = "postgres"
	ctx, cancel := context.WithTimeout(ctx, 3*askLimit)
	defer cancel()
	var version int
	var readOnly, mayCreate bool
	var role, fsync string
	err := pool.QueryRow(ctx, `
		SELECT current_setting('server_version_num')::integer, pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean,
		       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false), current_user, current_setting('fsync')`).
		Scan(&version, &readOnly, &mayCreate, &role, &fsync)
	if errors.Is(err, database.ErrEncoding) {
		r.add(server, "encoding", Fault, "create another database: CREATE DATABASE worker ENCODING 'UTF8' TEMPLATE template0", "%v", database.ErrEncoding)
		r.unknown(server, "the database has another encoding", "writes", "schema", "grants")
		return
	}
	if err != nil {
		status, do := Away, "start it, or put DATABASE_URL right; is the address reached from here?"
		if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && (strings.HasPrefix(pg.Code, "28") || pg.Code == "3D000") {
			status, do = Settings, "put user, password and database of DATABASE_URL right, or create them"
		}
		r.add(server, "connection", status, do, "%s", said(err))
		r.unknown(server, "there is no connection", "encoding", "writes", "schema", "grants")
		return
	}
	if version < leastVersion {
		r.add(server, "connection", Fault, "use Postgres 15 or later", "it is version %d", version/10000)
	} else {
		r.add(server, "connection", OK, "", "role %s, version %d", role, version/10000)
	}
	r.add(server, "encoding", OK, "", "UTF8")
	switch {
	case readOnly:
		r.add(server, "writes", Fault, "name the primary in DATABASE_URL, or have the database take writes again", "it is a standby, or can only be read")
	case fsync != "on":
		r.add(server, "writes", Advice, "set fsync = on", "fsync is %s: a crash of its machine may lose what was accepted, and call twice", fsync)
	default:
		r.add(server, "writes", OK, "", "it takes writes")
	}
	switch c, err := database.ReadCollation(ctx, pool); {
	case err == nil && c.Changed():
		r.add(server, "collation", Advice, "REINDEX what others have in this database, then ALTER DATABASE ... REFRESH COLLATION VERSION",
			"version %s sorts now, version %s did when the database was made; the worker's own indexes do not depend on it", c.Now, c.Made)
	case err == nil:
		r.add(server, "collation", OK, "", "the library is the one that the database was made with")
	}
	switch err := migrations.Check(ctx, pool); {
	case errors.Is(err, migrations.ErrBehind) && migrate && mayCreate && !readOnly:
		r.add(server, "schema", OK, "", "is not up to date; the first worker that starts does that (MIGRATE)")
		r.unknown(server, "the schema is not up to date yet", "grants")
		return
	case errors.Is(err, migrations.ErrBehind):
		r.add(server, "schema", Fault, "run worker migrate up as the role that owns the tables", "is behind this version, and a worker may not bring it up to date (MIGRATE, and CREATE on the schema)")
		r.unknown(server, "the schema is behind", "grants")
		return
	case err != nil:
		r.add(server, "schema", Fault, "have search_path name a schema that exists and is granted", "%s", said(err))
		r.unknown(server, "there is no schema", "grants")
		return
	}
	r.add(server, "schema", OK, "", "is up to date")
	r.grants(ctx, pool, role)
}

// grants asks which grants the role lacks.
func (r *Report) grants(ctx context.Context, pool *pgxpool.Pool, role string) {
	var tables, rights []string
	for table, all := range Grants {
		for _, right := range all {
			tables, rights = append(tables, table), append(rights, right)
		}
	}
	rows, err := pool.Query(ctx, `
		SELECT wanted, string_agg(may, ', ' ORDER BY may) FROM unnest($1::text[], $2::text[]) AS w (wanted, may)
		 WHERE NOT coalesce(CASE WHEN may LIKE '%)' THEN has_column_privilege(to_regclass(wanted), trim(')' FROM split_part(may, '(', 2)), trim(split_part(may, '(', 1)))
		                         ELSE has_table_privilege(to_regclass(wanted), may) END, false)
		 GROUP BY wanted`, tables, rights)
	var lacking []string
	var table, all string
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&table, &all}, func() error {
			lacking = append(lacking, fmt.Sprintf("GRANT %s ON %s TO %s;", all, table, pgx.Identifier{role}.Sanitize()))
			return nil
		})
	}
	slices.Sort(lacking)
	switch {
	case err != nil:
		r.add("postgres", "grants", Unknown, "", "%s", said(err))
	case len(lacking) > 0:
		r.add("postgres", "grants", Fault, "as the role that owns the tables: "+strings.Join(lacking, " "), "the role %s lacks grants", role)
	default:
		r.add("postgres", "grants", OK, "", "the role %s has all", role)
	}
}

// said is an error on one line: pgx tries a server twice, with TLS and without, and lists both.
func said(err error) string {
	text := strings.NewReplacer(":\n\t", ": ", "\n\t", "\n").Replace(err.Error())
	return strings.Join(slices.Compact(strings.Split(text, "\n")), "; ")
}
