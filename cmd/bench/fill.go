package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// filled is the large database: settled and published rows as the worker leaves
// them, with their attempts, and rows that are not due for days. It is made once.
func (w *world) filled(ctx context.Context, settled, notDue int) (string, error) {
	w.runs++
	dsn, err := w.database(ctx, fmt.Sprintf("large_%d", w.runs))
	if err != nil {
		return "", err
	}
	return dsn, w.fill(ctx, dsn, 0, settled, notDue)
}

// fill adds the settled rows numbered from to to, and notDue others.
func (w *world) fill(ctx context.Context, dsn string, from, to, notDue int) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is left to say
	// In steps, so that progress can be seen and a stop comes soon.
	const step = 250_000
	spacing := min(250*time.Millisecond, 28*24*time.Hour/time.Duration(max(to, 1)))
	for ; from < to; from += step {
		end := min(from+step, to)
		if _, err := conn.Exec(ctx, fillSettled, from, end-1, string(request(0)), fmt.Sprintf(answer, 1), spacing); err != nil {
			return err
		}
		fmt.Fprintf(progress, "  %d settled rows\n", end)
	}
	if _, err := conn.Exec(ctx, fillNotDue, notDue, string(request(0))); err != nil {
		return err
	}
	if _, err = conn.Exec(ctx, "VACUUM (ANALYZE) outbox, outbox_attempts"); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "CHECKPOINT") // what the fill left to write is not the burn-down's
	return err
}

// fillSettled spreads the rows' ends over the last 29 days, in the order of
// their ids, as time does.
const fillSettled = `
	WITH made AS (
		INSERT INTO outbox (request_id, source, state, request, attempt, lookup_key, lookup_attribute, interaction_sid, task_sid,
		       assignment_status, response, resolved_by, http_status, stream_sequence, stream_time, received_at, settled_at, published_at)
		SELECT 'old-' || md5(n::text), 'bench', 'created', $3::text::json, 1, md5(n::text), 'interaction_request', 'KD' || md5(n::text), 'WT' || md5(n::text),
		       'pending', $4::text::json, 'response', 200, n, at, at, at, at
		  FROM generate_series($1::integer, $2::integer) AS n,
		       LATERAL (SELECT now() - interval '29 days' + n * $5::interval) AS t (at)
		RETURNING id)
	INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, took, http_status, outcome, applied)
	SELECT id, 'attempt', 1, 'bench-1', now() - interval '29 days', '100 ms', 200, 'created', true FROM made`

// fillDue are requests that wait in the table itself, each due a moment after the one before.
const fillDue = `
	INSERT INTO outbox (request_id, source, state, request, lookup_key, stream_sequence, stream_time, due_at)
	SELECT format('due-%s-%s', $3::integer, n), 'bench', 'pending', $2::text::json, md5(format('due-%s-%s', $3::integer, n)), n, now(), now() + n * $4::interval
	  FROM generate_series(1, $1::integer) AS n`

const fillNotDue = `
	INSERT INTO outbox (request_id, source, state, request, lookup_key, stream_sequence, stream_time, due_at)
	SELECT 'later-' || md5(n::text), 'bench', 'pending', $2::text::json, md5(n::text), n, now(), now() + interval '2 days' + n * interval '1 s'
	  FROM generate_series(1, $1::integer) AS n`

// answer is a create's, as the rows keep it; %[1]d makes the sids.
const answer = `{"sid":"KD%032[1]x","channel":{"sid":"UO%032[1]x","type":"sms"},"routing":{"reservation":null,"properties":{` +
	`"sid":"WT%032[1]x","account_sid":"AC00000000000000000000000000000001","workspace_sid":"WS00000000000000000000000000000002",` +
	`"workflow_sid":"WW00000000000000000000000000000003","workflow_name":"Inbound care","queue_sid":"WQ00000000000000000000000000000004",` +
	`"queue_name":"Care","task_channel_sid":"TC00000000000000000000000000000005","task_channel_unique_name":"sms",` +
	`"assignment_status":"pending","assignmentCounter":0,"priority":0,"timeout":86400,"reason":"","age":0,"age_in_queue":0,` +
	`"date_created":1795305600,"date_updated":1795305600,"task_queue_entered_date":1795305600,"virtual_start_time":1795305600,` +
	`"addons":"{}","routing_target":null,"ignore_capacity":false,"version":0,` +
	`"attributes":"{\"customerName\":\"Ada\",\"channelType\":\"sms\",\"initiatedBy\":\"api\",\"direction\":\"inbound\",` +
	`\"taskCreateSource\":\"interaction\",\"flexInteractionSid\":\"KD%032[1]x\",\"flexInteractionChannelSid\":\"UO%032[1]x\",` +
	`\"conversationSid\":\"CH%032[1]x\"}"}},"interaction_context_sid":null,"webhook_ttid":null,` +
	`"url":"https://flex-api.twilio.com/v1/Interactions/KD%032[1]x",` +
	`"links":{"channels":"https://flex-api.twilio.com/v1/Interactions/KD%032[1]x/Channels"}}`
