package page_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/outbox"
	"flexworker/internal/outbox/gate"
	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/flextest"
	"flexworker/internal/testing/pgtest"
)

// body is a good request with an id and a customer.
func body(id, customer string) []byte {
	text, _ := json.Marshal(map[string]any{ // of texts
		"request_id": id,
		"channel": map[string]any{"type": "sms", "initiated_by": "api",
			"participants": []any{map[string]any{"address": "+15550100", "proxy_address": "+15550199"}}},
		"routing": map[string]any{"properties": map[string]any{"workspace_sid": flextest.WorkspaceSID, "workflow_sid": flextest.WorkflowSID,
			"task_channel_unique_name": "sms", "attributes": map[string]any{"customerName": customer}}},
		"metadata": map[string]any{"ticket": 4711},
	})
	return text
}

// add stores a request that can be looked up.
func (r *rig) add(t testing.TB, source, id, customer string, sequence uint64) {
	t.Helper()
	e := request.Event{
		Message:   request.Message{Stream: "INTERACTION_REQUESTS", Subject: "interactions.requests." + source, Source: source, Sequence: sequence, Time: time.Now()},
		RequestID: id, Request: body(id, customer), LookupKey: flex.LookupKey(id),
	}
	e.Raw = e.Request
	if added, err := outbox.NewStore(r.pool, "worker-1", time.Second, "interaction_request").Add(t.Context(), e); err != nil || added != outbox.Accepted {
		t.Fatal(id, added, err)
	}
}

// uncertain gives a request an attempt of which nobody knows what it came to; forPerson: no lookup can tell.
func (r *rig) uncertain(t testing.TB, id string, forPerson bool) {
	t.Helper()
	pgtest.Exec(t, r.pool, `
		WITH moved AS (
			UPDATE outbox SET state = 'uncertain', attempt = attempt + 1, attempt_began_at = now() - interval '14 minutes', received_at = least(received_at, now() - interval '15 minutes'),
			       uncertain_since = now() - interval '13 minutes 40 seconds', due_at = now() + interval '6 minutes', lookup_attribute = 'interaction_request',
			       for_person_since = CASE WHEN $2 THEN now() - interval '3 minutes' END, lookups = 9, error_kind = 'timeout',
			       error_message = CASE WHEN $2 THEN 'TaskRouter''s log shows no later creation, so that it proves nothing' ELSE 'no answer within 15 s' END
			 WHERE request_id = $1 RETURNING id, attempt)
		INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, took, outcome, error, applied)
		SELECT id, 'attempt', attempt, 'worker-2', now() - interval '14 minutes', interval '15 seconds', 'uncertain', 'no answer within 15 s', true FROM moved
		UNION ALL
		SELECT id, 'lookup', n, 'worker-1', now() - interval '13 minutes' + n * n * interval '7 seconds', interval '180 milliseconds', 'unclear',
		       CASE WHEN n < 3 THEN 'TaskRouter''s search finds no task; the settle time is not over' ELSE 'TaskRouter''s log shows no later creation, so that it proves nothing' END, true
		  FROM moved, generate_series(1, 9) AS n`, id, forPerson)
}

// inFlex makes the interaction of a request, as an attempt whose answer was lost had made it, and gives its sid.
func (r *rig) inFlex(t testing.TB, id, customer string) string {
	t.Helper()
	var whole struct{ Channel, Routing json.RawMessage }
	if err := json.Unmarshal(body(id, customer), &whole); err != nil {
		t.Fatal(err)
	}
	o := r.client.Create(t.Context(), flex.Interaction{Channel: whole.Channel, Routing: whole.Routing, LookupKey: flex.LookupKey(id)})
	if o.Kind != flex.Created {
		t.Fatal(o)
	}
	return o.InteractionSID
}

// stage is a fleet at work, as the screenshots show it: what it is made of stands in the tables.
func (r *rig) stage(t testing.TB) {
	t.Helper()
	sources := []string{"crm", "shop", "billing"}
	customers := []string{"Ada Lovelace", "Grace Hopper", "Alan Turing", "Katherine Johnson", "Edsger Dijkstra", "Barbara Liskov"}
	names := []string{"callback", "order", "refund", "reminder", "survey"}
	var ids []string
	for n := range 60 {
		id := fmt.Sprintf("%s-%d-%s", sources[n%3], 4200+n, names[n%5])
		r.add(t, sources[n%3], id, customers[n%6], uint64(18_200+n))
		ids = append(ids, id)
	}
	pgtest.Exec(t, r.pool, `
		UPDATE outbox SET attempt = 1, state = 'created', interaction_sid = 'KD' || md5(request_id), task_sid = 'WT' || md5('t' || request_id), assignment_status = 'pending',
		       resolved_by = 'response', due_at = NULL, received_at = now() - (62 - id) * interval '50 seconds', settled_at = now() - (62 - id) * interval '50 seconds' + interval '300 milliseconds',
		       published_at = now() - (62 - id) * interval '50 seconds' + interval '350 milliseconds' WHERE id <= 48`)
	pgtest.Exec(t, r.pool, `
		INSERT INTO outbox_setups (id, created_at, checks, channel_sid, channel_status, word, error_kind, why, error_code, decided_at, published_at)
		SELECT id, settled_at, CASE WHEN id = 5 THEN 4 ELSE 1 END, 'UO' || md5(request_id), CASE WHEN id = 5 THEN 'failed' ELSE 'active' END, CASE WHEN id = 5 THEN 'setup_failed' ELSE 'confirmed' END,
		       CASE WHEN id = 5 THEN 'channel_failed' END, CASE WHEN id = 5 THEN 'Flex says that the channel has failed' END, CASE WHEN id = 5 THEN 63024 END, settled_at + interval '2 seconds', settled_at + interval '2 seconds'
		  FROM outbox WHERE id <= 8`)
	failed := func(first, last int, state, kind, message string, status, code any) {
		pgtest.Exec(t, r.pool, `
			UPDATE outbox SET attempt = 1, state = $3, error_kind = $4, error_message = $5, http_status = $6, twilio_code = $7, due_at = NULL, interaction_sid = NULL, resolved_by = NULL,
			       received_at = now() - (62 - id) * interval '50 seconds', settled_at = now() - (62 - id) * interval '50 seconds' + interval '400 milliseconds',
			       published_at = now() WHERE id BETWEEN $1 AND $2`, first, last, state, kind, message, status, code)
	}
	failed(20, 22, "rejected", "http_404", "The requested resource /Workflows was not found", 404, 20404)
	failed(31, 35, "rejected", "http_400", "Address +1555010 is not a valid phone number", 400, 45004)
	failed(41, 41, "abandoned", "attempts_used_up", "10 of 10 attempts used up; the last: Flex answered 503", 503, nil)
	failed(44, 44, "expired", "expired", "its expires_at passed while it was pending", nil, nil)
	pgtest.Exec(t, r.pool, `
		INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, took, http_status, twilio_code, twilio_request_id, outcome, error, applied)
		SELECT id, 'attempt', 1, 'worker-' || (1 + id % 3), received_at + interval '12 milliseconds', interval '280 milliseconds', CASE WHEN state = 'created' THEN 201 ELSE http_status END, twilio_code, 'RQ' || md5('r' || request_id),
		       CASE WHEN state = 'created' THEN 'created' ELSE 'rejected' END, error_message, true FROM outbox WHERE id <= 48`)
	pgtest.Exec(t, r.pool, `UPDATE outbox SET attempt = 1, state = 'sending', due_at = NULL, leased_by = 'worker-3/17', leased_until = now() + interval '1 hour' WHERE id IN (49, 50)`)
	for _, id := range []int{52, 54, 57} {
		r.uncertain(t, ids[id-1], id != 57)
	}
	for n, who := range []string{"grace", "ada", "ada"} {
		pgtest.Exec(t, r.pool, `INSERT INTO outbox_acts (at, who, why, act, request_id, was, attempt) VALUES (now() - $1::interval, $2, $3, $4, $5, $6, $7)`,
			time.Duration(40-10*n)*time.Minute, who, []string{"status.twilio.com: incident with TaskRouter", "Twilio says it is over", "the workflow is there again (INC-1187)"}[n],
			[]string{"hold", "release", "retry"}[n], []any{nil, nil, ids[20]}[n], []string{"open", "held", "rejected"}[n], []any{nil, nil, 1}[n])
	}
	pgtest.Exec(t, r.pool, `
		INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, request_id, headers, raw, error, published_at) VALUES
		('malformed', 'INTERACTION_REQUESTS', 18231, now(), 'interactions.requests.web', 'web', NULL, '{"Content-Type": ["application/json"]}', '{"request_id": "web-9", ', 'not JSON: unexpected end of input', now()),
		('conflict', 'INTERACTION_REQUESTS', 18240, now(), 'interactions.requests.shop', 'shop', $1, '{}', '{"request_id": "x"}', 'another request has this id: channel.participants[0].address differs', now())`, ids[4])
	pgtest.Exec(t, r.pool, `
		INSERT INTO outbox_minutes (minute, source, outcome, n)
		SELECT date_trunc('minute', now()) - m * interval '1 minute', source, outcome, n
		  FROM generate_series(1, 61) AS m, LATERAL (VALUES ('crm', 'created', CASE WHEN m BETWEEN 30 AND 40 THEN 0 WHEN m BETWEEN 27 AND 29 THEN 131 - m ELSE 34 + (m * 7) % 19 END),
		       ('shop', 'created', CASE WHEN m BETWEEN 30 AND 40 THEN 0 ELSE 12 + (m * 5) % 7 END), ('crm', 'rejected', CASE WHEN m BETWEEN 12 AND 17 THEN 9 + m % 4 ELSE 0 END),
		       ('billing', 'abandoned', CASE WHEN m = 44 THEN 6 ELSE 0 END), ('shop', 'expired', CASE WHEN m BETWEEN 28 AND 31 THEN 5 ELSE 0 END)) AS v (source, outcome, n)
		 WHERE n > 0`)
	pgtest.Exec(t, r.pool, `UPDATE outbox_counted SET until = date_trunc('minute', now())`)
	pgtest.Exec(t, r.pool, `ANALYZE outbox`)
	r.replicas(t)
}

// replicas are three workers that are alive, one of which has lost its credentials. They renew their rows, as workers do, however long
// the test takes.
func (r *rig) replicas(t testing.TB) {
	t.Helper()
	pgtest.Exec(t, r.pool, `
		INSERT INTO outbox_replicas (name, version, started_at, seen_at, state, reason, state_since, last_created_at, account, lookup_attribute, lookup_settle, flex_timeout, flex_rate, uncertain_policy, retention)
		SELECT 'worker-' || n, 'v1.0.0', now() - interval '26 hours', now() + interval '9 seconds', CASE WHEN n = 2 THEN 'unauthorized' ELSE 'ok' END,
		       CASE WHEN n = 2 THEN 'Flex answered 401: Authenticate' END, now() - CASE WHEN n = 2 THEN interval '7 minutes' ELSE interval '26 hours' END, now() - interval '4 seconds',
		       'AC00000000000000000000000000000001', 'interaction_request', '60 seconds', '15 seconds', 10, 'hold', '720 hours' FROM generate_series(1, 3) AS n
		ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at`)
	pgtest.Exec(t, r.pool, `UPDATE outbox_gate SET rate = 10`)
	ctx, end := context.WithCancel(t.Context())
	var renewing sync.WaitGroup
	renewing.Go(func() {
		tick := time.NewTicker(gate.RenewEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				_, _ = r.pool.Exec(ctx, `UPDATE outbox_replicas SET seen_at = clock_timestamp() + interval '9 seconds'`) // the next tick does it again
			}
		}
	})
	t.Cleanup(func() {
		end()
		renewing.Wait()
	})
}
