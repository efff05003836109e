package setup

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/rawjson"
)

const (
	// LookLimit is how long a look may take until another replica may make it.
	LookLimit = 45 * time.Second
	// takeMost is how many requests one take has at most: their texts are read with them.
	takeMost = 32
	// giveUpMost is how many words one statement writes while confirmation is off.
	giveUpMost = 500
	// RetryOff is how long no read is made once Flex has refused them.
	RetryOff = time.Hour
)

// A Due is a created request at which a look is due.
type Due struct {
	ID             int64
	RequestID      string
	InteractionSID string
	Channel        string // UO sid of the answer to the create; "": it had none
	Workspace      string // of the task; "": there is none to read
	Task           string // WT sid; "" likewise
	Named          bool   // the request names participants
	Checks         int    // looks that were made and count
	Age            time.Duration
}

// reads is how many reads a look at it takes at most.
func (d Due) reads() int {
	n := 1
	if d.Named {
		n++
	}
	if d.Task != "" {
		n++
	}
	return n
}

// A Take is what one round has to do.
type Take struct {
	Due  []Due
	Off  bool          // Flex refuses the reads. With Due: one is made all the same, to see whether it still does
	Wait time.Duration // until another take may find something
}

// Setups are the rows of outbox_setups and the fleet's budget for their reads.
type Setups struct{ Pool *pgxpool.Pool }

// due: a look is due. A row's due_at is at most two minutes ahead: what is later was said by a clock that has gone back since.
const due = `word IS NULL AND (due_at <= now() OR due_at > now() + interval '2 minutes')`

// mayRead: the fleet may read now. What ends later than any wait was said by a clock that has gone back since.
const mayRead = `NOT read_at BETWEEN clock_timestamp() AND clock_timestamp() + ` + gate.LongestPause

// Take takes requests at which a look is due, those first that are due longest, as many as rate reads a second are for
// about one second. It postpones them past the limit of a look. None is taken while another replica has taken so many, while Twilio has
// put reads off, and while the gate is paused.
func (s *Setups) Take(ctx context.Context, rate float64) (Take, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	var t Take
	var waits, paused bool
	err := s.Pool.QueryRow(ctx, `/* setups */
		SELECT off_since IS NOT NULL, CASE WHEN `+mayRead+` THEN '0' ELSE read_at - clock_timestamp() END,
		       EXISTS (SELECT FROM outbox_setups WHERE `+due+`),
		       coalesce((SELECT paused_until BETWEEN clock_timestamp() AND clock_timestamp() + `+gate.LongestPause+` FROM outbox_gate), false)
		  FROM outbox_confirmation`).Scan(&t.Off, &t.Wait, &waits, &paused)
	if err != nil || !waits || paused || t.Wait > 0 {
		return t, database.Wrap("take setups", err)
	}
	most := max(1, min(int(rate/3), takeMost))
	if t.Off {
		most = 1
	}
	err = pgx.BeginFunc(ctx, s.Pool, func(tx pgx.Tx) error {
		// What is lost of this in a crash are a look that is made again and a moment of the budget.
		if _, err := tx.Exec(ctx, `SELECT set_config('synchronous_commit', 'off', true), `+database.Patiently); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE outbox_confirmation SET read_at = clock_timestamp() WHERE `+mayRead)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		if t.Due, err = postpone(ctx, tx, most); err != nil {
			return err
		}
		reads := 0
		for _, d := range t.Due {
			reads += d.reads()
		}
		t.Wait = time.Duration(float64(reads) / rate * float64(time.Second))
		_, err = tx.Exec(ctx, `UPDATE outbox_confirmation SET read_at = clock_timestamp() + $1::interval`, t.Wait)
		return err
	})
	if err != nil {
		return Take{}, database.Wrap("take setups", err)
	}
	return t, nil
}

// postpone takes at most most rows. Texts are read as they are: JSON that Postgres cannot read must not stop the others.
func postpone(ctx context.Context, tx pgx.Tx, most int) ([]Due, error) {
	rows, err := tx.Query(ctx, `
		WITH due AS MATERIALIZED (
			SELECT id FROM outbox_setups WHERE `+due+` ORDER BY due_at, id LIMIT $1 FOR UPDATE SKIP LOCKED)
		UPDATE outbox_setups s SET due_at = clock_timestamp() + $2::interval, created_at = least(s.created_at, clock_timestamp())
		  FROM due JOIN outbox o USING (id)
		 WHERE s.id = due.id
		RETURNING s.id, o.request_id, o.interaction_sid, coalesce(o.task_sid, ''), o.request, o.response, s.checks, clock_timestamp() - s.created_at`,
		most, LookLimit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Due, error) {
		var d Due
		var asked, response []byte
		err := row.Scan(&d.ID, &d.RequestID, &d.InteractionSID, &d.Task, &asked, &response, &d.Checks, &d.Age)
		participants, _ := rawjson.Member(asked, "channel", "participants")
		d.Named = len(participants) > 0 && participants[0] == '[' && !bytes.HasPrefix(bytes.TrimSpace(participants[1:]), []byte("]"))
		if workspace, _ := rawjson.Member(asked, "routing", "properties", "workspace_sid"); flex.IsSID(d.Task, "WT") {
			text, _ := rawjson.Text(workspace)
			d.Workspace = string(text)
		}
		if !flex.IsSID(d.Workspace, "WS") {
			d.Task = ""
		}
		if channel, _ := flex.Describe(response); channel != nil && channel.SID != nil {
			d.Channel = *channel.SID
		}
		return d, err
	})
}

// A Finding is what one look has shown.
type Finding struct {
	Due     Due
	Look    Look
	Verdict Verdict
	Next    time.Duration // until the following look, where there is no word
}

// Store keeps what looks have shown, and their words where they have one, in one transaction. stored says of each whether it was kept: it was
// not where another look was faster, whose word counts, or where the request is gone.
func (s *Setups) Store(ctx context.Context, all []Finding) (stored []bool, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	order := make([]int, len(all)) // of ids: who locks several rows does so in one order
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return cmp.Compare(all[i].Due.ID, all[j].Due.ID) })
	stored = make([]bool, len(all))
	var b pgx.Batch // is one transaction
	for _, i := range order {
		d, l, v := all[i].Due, all[i].Look, all[i].Verdict
		b.Queue(storeSQL, d.ID, d.Checks, database.OrNull(string(v.Word)), all[i].Next, database.OrNull(v.Kind), database.OrNull(request.Text(v.Why)),
			database.OrNull(request.Text(l.Channel.SID)), database.OrNull(request.Text(l.Channel.Status)),
			database.Int32OrNull(l.Channel.ErrorCode), database.OrNull(request.Text(l.Channel.ErrorMessage)),
			database.OrNull(request.Text(l.Task.Status)), database.OrNull(request.Text(l.Task.Reason))).
			Exec(func(tag pgconn.CommandTag) error { stored[i] = tag.RowsAffected() == 1; return nil })
	}
	return stored, database.Wrap("store setups", s.Pool.SendBatch(ctx, &b).Close())
}

const storeSQL = `/* setup */
	UPDATE outbox_setups
	   SET checks = checks + 1, due_at = CASE WHEN $3::text IS NULL THEN clock_timestamp() + $4::interval END,
	       word = $3, error_kind = $5, why = $6, decided_at = CASE WHEN $3 IS NOT NULL THEN clock_timestamp() END,
	       channel_sid = coalesce($7, channel_sid), channel_status = coalesce($8, channel_status),
	       error_code = coalesce($9, error_code), error_message = coalesce($10, error_message),
	       task_status = coalesce($11, task_status), task_reason = coalesce($12, task_reason)
	 WHERE id = $1 AND checks = $2 AND word IS NULL`

// GiveUp gives those their word at which a look is due: Flex refuses the reads. It says how many these were.
func (s *Setups) GiveUp(ctx context.Context) (int, error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	tag, err := s.Pool.Exec(ctx, `
		WITH due AS MATERIALIZED (
			SELECT id FROM outbox_setups WHERE `+due+` ORDER BY due_at, id LIMIT $1 FOR UPDATE SKIP LOCKED)
		UPDATE outbox_setups s SET word = 'unconfirmed', due_at = NULL, decided_at = clock_timestamp(),
		       why = 'no look was made: Flex refuses to show whether channels were set up: ' || c.reason
		  FROM due, outbox_confirmation c WHERE s.id = due.id AND c.off_since IS NOT NULL`, giveUpMost)
	return int(tag.RowsAffected()), database.Wrap("give setups up", err)
}

// Limit keeps the whole fleet from reading for so long, and puts off the look that Twilio has put off.
func (s *Setups) Limit(ctx context.Context, d Due, wait time.Duration) error {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	var b pgx.Batch
	b.Queue(`UPDATE outbox_setups SET due_at = clock_timestamp() + $3::interval WHERE id = $1 AND checks = $2 AND word IS NULL`,
		d.ID, d.Checks, min(wait, time.Minute))
	b.Queue(`UPDATE outbox_confirmation SET read_at = greatest(read_at, clock_timestamp() + $1::interval)`, min(wait, request.MaxRetryAfter))
	return database.Wrap("put setups off", s.Pool.SendBatch(ctx, &b).Close())
}

// Refused counts a request whose set-up Flex has refused to show, and says how many these are in a row.
func (s *Setups) Refused(ctx context.Context) (inARow int, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	err = s.Pool.QueryRow(ctx, `UPDATE outbox_confirmation SET refused = least(refused + 1, 1000000) RETURNING refused`).Scan(&inARow)
	return inARow, database.Wrap("count refused setups", err)
}

// TurnOff turns confirmation off for the whole fleet, or keeps it off, for RetryOff. It says whether it was on.
func (s *Setups) TurnOff(ctx context.Context, reason string) (was bool, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	err = s.Pool.QueryRow(ctx, `
		WITH before AS MATERIALIZED (SELECT off_since FROM outbox_confirmation FOR UPDATE)
		UPDATE outbox_confirmation c SET off_since = coalesce(c.off_since, clock_timestamp()), reason = $1, read_at = clock_timestamp() + $2::interval
		  FROM before RETURNING before.off_since IS NULL`, request.Text(reason), RetryOff).Scan(&was)
	return was, database.Wrap("turn confirmation off", err)
}

// Answered notes that Flex has shown a set-up. It says whether confirmation was off.
func (s *Setups) Answered(ctx context.Context) (was bool, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	rows, err := s.Pool.Query(ctx, `
		WITH before AS MATERIALIZED (SELECT off_since FROM outbox_confirmation WHERE refused > 0 OR off_since IS NOT NULL FOR UPDATE)
		UPDATE outbox_confirmation SET refused = 0, off_since = NULL, reason = NULL,
		       read_at = CASE WHEN before.off_since IS NULL THEN read_at ELSE clock_timestamp() END
		  FROM before RETURNING before.off_since IS NOT NULL`)
	if err != nil {
		return false, database.Wrap("note an answered setup", err)
	}
	off, err := pgx.CollectRows(rows, pgx.RowTo[bool])
	return len(off) > 0 && off[0], database.Wrap("note an answered setup", err)
}
