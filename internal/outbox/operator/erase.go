package operator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/outbox/request"
)

var (
	// ErrNotSettled is returned for an act that wants a request which has settled, and for one that has not.
	ErrNotSettled = errors.New("outbox: the request has not settled")
	// ErrUnanswered is returned by an Erase while an answer about the request is not on the result stream: it would go out
	// blank.
	ErrUnanswered = errors.New("outbox: an answer about the request is not published yet")
)

// An Erasure is what an Erase has done.
type Erasure struct {
	Request Detail // as it is now; the zero value: it could not be read again
	// Messages are those of the request stream that asked for the request, or conflicted with it: they still have what was
	// erased, as long as the stream keeps them.
	Messages []Asking
}

// An Asking is a message of a request stream.
type Asking struct {
	Stream   string `json:"stream"`
	Sequence int64  `json:"stream_sequence,string"`
}

// erased stands in place of a text that must not be null.
const erased = "erased"

// Erase blanks what may be personal of a request that has settled, and whose answers are published: request, answer of
// Flex, bytes, headers, faults, warnings, reasons of failures, trace contexts, also of the messages that asked again or
// conflicted, what Twilio said of its set-up, the reasons that people gave for acts, and the answers of the API to acts on it. Its id, source, sids,
// states, numbers and times stay, and so do who acted and when, and why it was erased.
//
// An erased request is never sent again. A message that asks again under its id cannot be compared with it: it is a
// conflict, and what it carries is kept until the request is erased once more.
func (desk *Desk) Erase(ctx context.Context, a Act, requestID string) (Erasure, error) {
	if err := desk.mayAct(a); err != nil {
		return Erasure{}, err
	}
	e, err := desk.erase(ctx, a, requestID)
	if err != nil {
		return e, database.Wrap("erase", err)
	}
	if now, err := desk.Show(ctx, requestID); err == nil { // it is erased in any case
		e.Request = now
	}
	return e, nil
}

func (desk *Desk) erase(ctx context.Context, a Act, requestID string) (e Erasure, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	err = pgx.BeginFunc(ctx, desk.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT `+database.Patiently); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT FROM outbox WHERE request_id = $1 FOR NO KEY UPDATE`, requestID); err != nil { // as in resolve
			return err
		}
		var id int64
		var state string
		var asked, answer []byte
		var settled, owed, otherAttempt, otherTag bool
		err := tx.QueryRow(ctx, `
			SELECT id, state, request, response, settled_at IS NOT NULL, attempt IS DISTINCT FROM coalesce($2::integer, attempt), $3 NOT IN ('', `+tagSQL+`),
			       published_at IS NULL OR EXISTS (SELECT FROM outbox_repeats r WHERE r.outbox_id = outbox.id AND r.published_at IS NULL)
			       OR EXISTS (SELECT FROM outbox_malformed m WHERE m.request_id = outbox.request_id AND m.published_at IS NULL)
			       OR EXISTS (SELECT FROM outbox_setups s WHERE s.id = outbox.id AND s.word IS NOT NULL AND s.published_at IS NULL)
			  FROM outbox WHERE request_id = $1 FOR NO KEY UPDATE`, requestID, a.attempt(), string(a.Seen)).
			Scan(&id, &state, &asked, &answer, &settled, &otherAttempt, &otherTag, &owed)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return ErrUnknown
		case err != nil:
			return err
		case otherAttempt:
			return ErrOtherAttempt
		case otherTag:
			return ErrStale
		case !settled:
			return ErrNotSettled
		case owed:
			return ErrUnanswered
		}
		if asked != nil {
			asked = request.Blank(asked)
		}
		if answer != nil {
			answer = request.BlankAnswer(answer)
		}
		var b pgx.Batch
		b.Queue(`UPDATE outbox SET request = $2, response = $3, raw = left(raw::text, 0)::bytea, warnings = NULL, faults = NULL, error_message = NULL,
			traceparent = NULL, tracestate = NULL, erased_at = clock_timestamp() WHERE id = $1`, id, asked, answer)
		b.Queue(`UPDATE outbox_attempts SET error = NULL WHERE outbox_id = $1 AND error IS NOT NULL`, id)
		// What has no word yet gets one now, which nobody is told: a look would bring back what is blanked, and nothing may be
		// owed of what is erased.
		b.Queue(`UPDATE outbox_setups SET error_message = NULL, task_reason = NULL, word = coalesce(word, 'unconfirmed'), due_at = NULL,
			decided_at = coalesce(decided_at, clock_timestamp()), published_at = coalesce(published_at, clock_timestamp()), why = CASE WHEN word IS DISTINCT FROM 'confirmed' THEN $2 END WHERE id = $1`, id, erased)
		b.Queue(`UPDATE outbox_repeats SET traceparent = NULL, tracestate = NULL WHERE outbox_id = $1 AND traceparent IS NOT NULL`, id)
		b.Queue(`UPDATE outbox_malformed SET headers = '{}', raw = '', error = $2, traceparent = NULL, tracestate = NULL WHERE request_id = $1`, requestID, erased)
		b.Queue(`UPDATE outbox_acts SET why = $2 WHERE request_id = $1 AND act <> 'erase'`, requestID, erased)
		b.Queue(`UPDATE outbox_idempotency_keys SET answer = NULL WHERE request_id = $1`, requestID)
		b.Queue(`INSERT INTO outbox_acts (who, why, act, request_id, was, attempt) VALUES ($1, $2, 'erase', $3, $4, $5)`,
			desk.caller.Name, a.Why, requestID, state, a.attempt())
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		e.Messages, err = rowsOf[Asking](ctx, tx, `
			SELECT stream, stream_sequence FROM outbox WHERE id = $1
			UNION SELECT stream, stream_sequence FROM outbox_repeats WHERE outbox_id = $1
			UNION SELECT stream, stream_sequence FROM outbox_malformed WHERE request_id = $2
			 ORDER BY 1, 2`, id, requestID)
		return err
	})
	return e, err
}

// Unreached says where what was erased may still stand, a sentence each: what the tables cannot blank.
func (e Erasure) Unreached() []string {
	byStream := map[string][]string{}
	var streams []string
	for _, m := range e.Messages {
		if byStream[m.Stream] == nil {
			streams = append(streams, m.Stream)
		}
		byStream[m.Stream] = append(byStream[m.Stream], fmt.Sprint(m.Sequence))
	}
	var said []string
	for _, stream := range streams {
		name := stream
		if name == "" {
			name = "the request stream"
		}
		said = append(said, fmt.Sprintf("Its messages in %s, by their sequences: %s.", name, strings.Join(byStream[stream], ", ")))
	}
	return append(said,
		"Its results on the result stream, and whatever reads that.",
		"Messages that could not be read as a request with this id: outbox_malformed.",
		"Logs and traces of the workers, and of those who sent it.",
		"Twilio: the task's attributes, the conversation, TaskRouter's log.",
		"Postgres: backups, replicas that lag, the write-ahead log, and the old versions of the rows until a VACUUM has removed them.",
		"The id itself, the source, and the reason of this act.")
}
