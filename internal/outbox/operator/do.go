package operator

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
)

// Affected are the requests that a change takes, or has taken.
type Affected struct {
	IDs []string       // of Matching the first five, in the order of their ids
	N   int            // of all
	Of  map[string]int // how many, by what becomes of them
	// Locked are those that another session held, so that they were left out.
	Locked []string
	// Token is for Filter.Preview, of what Matching gave.
	Token string
}

// Matching says what a change would take, of requests whose latest attempt is attempt; nil: whatever it is. It
// changes nothing.
func (desk *Desk) Matching(ctx context.Context, c Change, attempt *int, f Filter) (Affected, error) {
	if err := desk.MayLook(); err != nil {
		return Affected{}, err
	}
	var args params
	sql := `
		WITH chosen AS MATERIALIZED (
			SELECT id, request_id, ` + c.what + ` AS what FROM outbox WHERE ` + f.where(&args, nil) + c.can + ofAttempt(&args, attempt) + `
			 ORDER BY id LIMIT nullif(` + args.add(f.Limit) + `::bigint, 0))
		SELECT what, count(*), (SELECT array_agg(request_id) FROM (SELECT request_id FROM chosen ORDER BY id LIMIT 5) AS first),
		       (SELECT max(id) FROM chosen), pg_current_snapshot()::text, statement_timestamp()
		  FROM chosen GROUP BY what`
	rows, err := desk.reads.Query(ctx, sql, args...)
	if err != nil {
		return Affected{}, unread(c.Name, err)
	}
	all := Affected{IDs: []string{}, Of: map[string]int{}}
	var what string
	var n int
	var newest int64
	var snapshot string
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&what, &n, &all.IDs, &newest, &snapshot, &at}, func() error {
		all.Of[what], all.N = n, all.N+n
		return nil
	})
	all.Token = previewOf(c, attempt, f, newest, snapshot, at.UnixMicro()).token()
	return all, unread(c.Name, err)
}

// Left is what a change leaves as it is of the requests that match a filter.
type Left struct {
	N    int
	Of   map[string]int // how many, by why they are left
	More bool           // there are more than were counted
}

// leftMost is how many requests Leaving counts, and leftFor how many milliseconds Postgres may take for it.
const (
	leftMost = 10_000
	leftFor  = 500
)

// Leaving says what a change would leave as it is of the requests that the filter chooses, and why. It fails with ErrTooSlow where
// Postgres would have to read too much.
func (desk *Desk) Leaving(ctx context.Context, c Change, f Filter) (Left, error) {
	left := Left{Of: map[string]int{}}
	err := desk.read(ctx, "leaving", func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf(`SET LOCAL statement_timeout = %d`, leftFor)); err != nil {
			return err
		}
		var args params
		sql := `
			SELECT why, count(*) FROM (
				SELECT ` + c.left + ` AS why FROM outbox WHERE ` + f.where(&args, nil) + ` AND NOT coalesce(true` + c.can + `, false)
				 LIMIT ` + args.add(leftMost+1) + `) AS untaken GROUP BY why`
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		var why string
		var n int
		_, err = pgx.ForEachRow(rows, []any{&why, &n}, func() error {
			left.Of[why], left.N = n, left.N+n
			return nil
		})
		return err
	})
	left.More = left.N > leftMost
	return left, err
}

// ofAttempt is a further condition on a request: that attempt is its latest. nil: whichever is.
func ofAttempt(args *params, attempt *int) string {
	if attempt == nil {
		return ""
	}
	return ` AND attempt = ` + args.add(*attempt) + `::integer`
}

// Do carries out a change on the requests that the filter chooses and the change takes, and records it, in one
// statement. Rows are locked in the order of ids. A request whose latest attempt or tag is not the one that the act
// speaks of is not changed.
//
// Of acts on many one is done at a time: it may take long, and a hold, or an act on one request, has to find a connection.
// Another fails with ErrBusy.
//
// A row that another session holds locked for longer than database.Patience is left out, and named: one row must
// not keep a thousand others from what a person decided.
func (desk *Desk) Do(ctx context.Context, c Change, a Act, f Filter) (Affected, error) {
	if err := desk.mayAct(a); err != nil {
		return Affected{}, err
	}
	shown, err := f.shown(c, a.attempt())
	if err != nil {
		return Affected{}, err
	}
	if len(f.RequestIDs) != 1 {
		select {
		case desk.many <- struct{}{}:
			defer func() { <-desk.many }()
		default:
			return Affected{}, ErrBusy
		}
	}
	return desk.carryOut(ctx, c, a, f, shown)
}

// carryOut is Do without its checks.
func (desk *Desk) carryOut(ctx context.Context, c Change, a Act, f Filter, shown *preview) (Affected, error) {
	all, _, err := desk.do(ctx, c, a, f, shown, "")
	if database.WaitedForLock(err) && database.RowsLocked(ctx, desk.pool, err, "outbox", "outbox_acts") {
		var left []unmoved
		if all, left, err = desk.do(ctx, c, a, f, shown, "SKIP LOCKED"); len(left) > 0 && err == nil {
			all.Locked = desk.stillMatching(ctx, c, left)
		}
	}
	return all, database.Wrap(c.Name, err)
}

// unmoved is a request that matched and was not changed: another session holds its row, or has changed it meanwhile.
type unmoved struct {
	id        int64
	requestID string
}

// do is Do, where locked is empty or SKIP LOCKED. It also returns what matched and was not changed.
func (desk *Desk) do(ctx context.Context, c Change, a Act, f Filter, shown *preview, locked string) (Affected, []unmoved, error) {
	var args params
	matches := f.where(&args, shown) + c.can + ofAttempt(&args, a.attempt())
	if a.Seen != "" {
		matches += ` AND ` + tagSQL + ` = ` + args.add(string(a.Seen)) + `::text`
	}
	sql := `
		WITH matching AS MATERIALIZED (
			SELECT id AS match, request_id AS named FROM outbox WHERE ` + matches + ` ORDER BY id LIMIT nullif(` + args.add(f.Limit) + `::bigint, 0)),
		chosen AS MATERIALIZED (
			SELECT id, state AS was, ` + c.what + ` AS what FROM outbox JOIN matching ON id = match WHERE ` + matches + `
			 ORDER BY id FOR NO KEY UPDATE OF outbox ` + locked + `),
		moved AS (
			UPDATE outbox o SET ` + c.set + ` FROM chosen WHERE o.id = chosen.id
			RETURNING o.id, o.request_id, chosen.was, chosen.what, o.settled_at IS NOT NULL AND o.published_at IS NULL AS owed, ` + actedAt("o") + ` AS at),
		acts AS (
			INSERT INTO outbox_acts (at, who, why, act, request_id, was, attempt, unverified)
			SELECT at, ` + args.add(desk.caller.Name) + `::text, ` + args.add(a.Why) + `::text, ` + args.add(c.Name) + `::text, request_id, was, ` + args.add(a.attempt()) + `::integer, ` + args.add(c.unverified) + `::boolean FROM moved)
		SELECT match, named, moved.id IS NOT NULL, coalesce(what, ''), coalesce(owed, false) FROM matching LEFT JOIN moved ON id = match ORDER BY match`
	var b pgx.Batch
	b.Queue(`SELECT ` + database.Patiently)
	if a.Seen != "" { // as in resolve
		b.Queue(`SELECT FROM outbox WHERE request_id = ANY ($1) FOR NO KEY UPDATE `+locked, f.RequestIDs)
	} else {
		b.Queue(`SELECT`)
	}
	b.Queue(sql, args...)
	all := Affected{IDs: []string{}, Of: map[string]int{}}
	sent := desk.pool.SendBatch(ctx, &b)
	for range 2 {
		if _, err := sent.Exec(); err != nil {
			return all, nil, cmp.Or(err, sent.Close())
		}
	}
	rows, err := sent.Query()
	if err != nil {
		return all, nil, cmp.Or(err, sent.Close())
	}
	var left []unmoved
	var told []int64
	var id int64
	var requestID, what string
	var moved, owed bool
	_, err = pgx.ForEachRow(rows, []any{&id, &requestID, &moved, &what, &owed}, func() error {
		if !moved {
			left = append(left, unmoved{id, requestID})
			return nil
		}
		all.IDs = append(all.IDs, requestID)
		all.N++
		all.Of[what]++
		if owed {
			told = append(told, id)
		}
		return nil
	})
	if err = cmp.Or(err, sent.Close()); err == nil { // which waits for the commit
		desk.tell(told...)
	}
	return all, left, err
}

// actedAt is when an act was done, in SQL, of a row that the statement has changed: not later than what the act has brought.
func actedAt(row string) string {
	return `least(clock_timestamp(), CASE WHEN ` + row + `.settled_at >= statement_timestamp() THEN ` + row + `.settled_at END,
			CASE WHEN ` + row + `.cancel_requested_at >= statement_timestamp() THEN ` + row + `.cancel_requested_at END)`
}

// stillMatching are the request ids of those that the change can still take; all of them, where that cannot be read: the
// change of the others is done.
func (desk *Desk) stillMatching(ctx context.Context, c Change, left []unmoved) []string {
	ids, named := make([]int64, len(left)), make([]string, len(left))
	for i, one := range left {
		ids[i], named[i] = one.id, one.requestID
	}
	rows, err := desk.pool.Query(ctx, `SELECT request_id FROM outbox WHERE id = ANY ($1)`+c.can+` ORDER BY id`, ids)
	if err != nil {
		return named
	}
	still, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return named
	}
	return still
}
