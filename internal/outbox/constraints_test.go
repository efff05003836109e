package outbox

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// TestConstraints: the schema refuses each row that must not be, by the name that
// says why, and each name is tried. Every case is one change to a row that the
// schema takes.
func TestConstraints(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const base = `INSERT INTO outbox (request_id, source, state, request, due_at, attempt, leased_by, leased_until, attempt_began_at, uncertain_since,
		interaction_sid, resolved_by, error_kind, settled_at, stream_sequence, stream_time) VALUES `
	good := map[request.State]string{
		request.Pending:   `('pending', 's', 'pending', '{}', now(), 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, now())`,
		request.Sending:   `('sending', 's', 'sending', '{}', NULL, 1, 'w', now(), NULL, NULL, NULL, NULL, NULL, NULL, 1, now())`,
		request.Uncertain: `('uncertain', 's', 'uncertain', '{}', now(), 1, NULL, NULL, now(), now(), NULL, NULL, 'lapsed', NULL, 1, now())`,
		request.Created:   `('created', 's', 'created', '{}', NULL, 1, NULL, NULL, NULL, NULL, 'KD0000000000000000000000000000000a', 'response', NULL, now(), 1, now())`,
		request.Rejected:  `('rejected', 's', 'rejected', '{}', NULL, 1, NULL, NULL, NULL, NULL, NULL, 'response', 'http_400', now(), 1, now())`,
		request.Abandoned: `('abandoned', 's', 'abandoned', '{}', NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, 'used_up', now(), 1, now())`,
		request.Expired:   `('expired', 's', 'expired', '{}', NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, 'expired', now(), 1, now())`,
		request.Cancelled: `('cancelled', 's', 'cancelled', '{}', NULL, 0, NULL, NULL, NULL, NULL, NULL, 'operator', 'cancelled', now(), 1, now())`,
	}
	for _, state := range request.States {
		pgtest.Exec(t, s.pool, base+good[state])
	}
	pgtest.Exec(t, s.pool, `INSERT INTO outbox_attempts (outbox_id, kind, number, worker, started_at, outcome, applied) VALUES (1, 'attempt', 1, 'w', now(), 'created', true)`)
	pgtest.Exec(t, s.pool, `INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, headers, raw, error) VALUES ('malformed', 's', 1, 'epoch', 's', 's', '{}', '', 'e')`)
	pgtest.Exec(t, s.pool, `INSERT INTO outbox_repeats (outbox_id, source, stream_sequence, stream_time) VALUES (1, 's', 1, 'epoch')`)
	pgtest.Exec(t, s.pool, `INSERT INTO outbox_setups (id, created_at, due_at) VALUES (1, now(), now())`)

	update := func(state request.State, set string) string {
		return `UPDATE outbox SET ` + set + ` WHERE state = '` + string(state) + `'`
	}
	tried := map[string]bool{}
	for _, tt := range []struct{ name, sql string }{
		{"request_id_is_unique", base + good[request.Pending]},
		{"request_id_has_1_to_256_bytes", update(request.Pending, `request_id = ''`)},
		{"request_id_has_1_to_256_bytes", update(request.Pending, `request_id = repeat('é', 129)`)},
		{"state_is_known_and_settled_when_final", update(request.Pending, `state = 'done', due_at = NULL, error_kind = 'odd'`)},
		{"state_is_known_and_settled_when_final", update(request.Expired, `state = 'done'`)},
		{"priority_is_0_to_9", update(request.Pending, `priority = 10`)},
		{"priority_is_0_to_9", update(request.Pending, `priority = -1`)},
		{"request_or_raw_is_kept", update(request.Rejected, `request = NULL`)},
		{"request_or_raw_is_kept", update(request.Pending, `request = NULL, raw = ''`)},
		{"due_while_pending", update(request.Pending, `due_at = NULL`)},
		{"due_only_while_pending_or_uncertain", update(request.Created, `due_at = now()`)},
		{"due_only_while_pending_or_uncertain", update(request.Sending, `due_at = now()`)},
		{"lease_while_sending", update(request.Sending, `leased_until = NULL`)},
		{"lease_while_sending", update(request.Sending, `leased_by = NULL`)},
		{"lease_while_sending", update(request.Pending, `leased_until = now(), leased_by = 'w'`)},
		{"lease_while_sending", update(request.Pending, `leased_by = 'w'`)},
		{"attempted_before_sending", update(request.Sending, `attempt = 0`)},
		{"attempted_before_sending", update(request.Abandoned, `attempt = 0`)},
		{"times_are_finite", update(request.Pending, `due_at = 'infinity'`)},
		{"times_are_finite", update(request.Pending, `expires_at = '-infinity'`)},
		{"times_are_finite", update(request.Uncertain, `uncertain_since = 'infinity'`)},
		{"times_are_finite", update(request.Sending, `leased_until = 'infinity'`)},
		{"times_are_finite", update(request.Expired, `settled_at = '-infinity'`)},
		{"counters_have_room", update(request.Sending, `attempt = 2147483647`)},
		{"counters_have_room", update(request.Sending, `lookups = 2147483647`)},
		{"uncounted_is_part_of_attempt", update(request.Sending, `uncounted = 2`)},
		{"uncounted_is_part_of_attempt", update(request.Sending, `uncounted = -1`)},
		{"lookup_key_has_32_hex_digits", update(request.Pending, `lookup_key = repeat('A', 32)`)},
		{"uncertain_has_a_beginning", update(request.Uncertain, `uncertain_since = NULL`)},
		{"uncertain_has_a_beginning", update(request.Uncertain, `attempt_began_at = NULL`)},
		{"person_and_end_only_while_uncertain", update(request.Pending, `for_person_since = now()`)},
		{"person_and_end_only_while_uncertain", update(request.Created, `for_person_since = now()`)},
		{"person_and_end_only_while_uncertain", update(request.Pending, `ends_as = 'rejected'`)},
		{"end_is_final", update(request.Uncertain, `ends_as = 'pending'`)},
		{"cancelled_is_never_sent", update(request.Pending, `cancel_requested_at = now()`)},
		{"cancelled_is_never_sent", update(request.Sending, `cancel_requested_at = now()`)},
		{"sid_and_resolver_when_created", update(request.Created, `interaction_sid = NULL`)},
		{"sid_and_resolver_when_created", update(request.Rejected, `interaction_sid = 'KD0000000000000000000000000000000a'`)},
		{"sid_has_its_form", update(request.Created, `interaction_sid = 'KD1'`)},
		{"sid_has_its_form", update(request.Created, `interaction_sid = E'KD0000000000000000000000000000000a\n'`)},
		{"resolved_by_is_known", update(request.Created, `resolved_by = 'magic'`)},
		{"sid_and_resolver_when_created", update(request.Created, `resolved_by = NULL`)},
		{"reason_when_not_created", update(request.Rejected, `error_kind = NULL`)},
		{"reason_when_not_created", update(request.Uncertain, `error_kind = NULL`)},
		{"reason_when_not_created", update(request.Abandoned, `error_kind = NULL`)},
		{"reason_when_not_created", update(request.Expired, `error_kind = NULL`)},
		{"reason_when_not_created", update(request.Cancelled, `error_kind = NULL`)},
		{"state_is_known_and_settled_when_final", update(request.Expired, `settled_at = NULL`)},
		{"state_is_known_and_settled_when_final", update(request.Pending, `settled_at = now()`)},
		{"revision_is_counted_from_1", update(request.Pending, `revision = 0`)},
		{"published_and_erased_after_settled", update(request.Uncertain, `published_at = now()`)},
		{"published_and_erased_after_settled", update(request.Pending, `erased_at = now()`)},
		{"kind_is_known", `UPDATE outbox_attempts SET kind = 'guess'`},
		{"number_is_counted_from_1", `UPDATE outbox_attempts SET number = 0`},
		{"kind_is_known", `UPDATE outbox_malformed SET kind = 'odd'`},
		{"conflict_names_a_request", `UPDATE outbox_malformed SET kind = 'conflict'`},
		{"message_is_kept_once", `INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, headers, raw, error) VALUES ('malformed', 's', 1, 'epoch', 's', 's', '{}', '', 'e')`},
		{"repeat_is_kept_once", `INSERT INTO outbox_repeats (outbox_id, source, stream_sequence, stream_time) VALUES (2, 's', 1, 'epoch')`},
		{"act_is_known", `INSERT INTO outbox_acts (who, why, act, was) VALUES ('me', 'so', 'dance', 'ok')`},
		{"who_and_why_are_said", `INSERT INTO outbox_acts (who, why, act, was) VALUES ('', 'so', 'hold', 'ok')`},
		{"who_and_why_are_said", `INSERT INTO outbox_acts (who, why, act, was) VALUES ('me', '', 'hold', 'ok')`},
		{"outbox_gate_pkey", `INSERT INTO outbox_gate DEFAULT VALUES`},
		{"there_is_one_gate", `INSERT INTO outbox_gate (only_row) VALUES (false)`},
		{"rate_is_not_negative", `UPDATE outbox_gate SET rate = -1`},
		{"rate_is_not_negative", `UPDATE outbox_gate SET tokens = -0.1`},
		{"word_is_known", `INSERT INTO outbox_replicas (name, version, state, lookup_settle, flex_timeout, flex_rate, uncertain_policy, retention) VALUES ('w', 'v', 'odd', '0', '0', 0, 'hold', '0')`},
		{"key_has_1_to_255_bytes", `INSERT INTO outbox_idempotency_keys (key, asked, who) VALUES ('', sha256(''), 'me')`},
		{"asked_is_a_sha256", `INSERT INTO outbox_idempotency_keys (key, asked, who) VALUES ('k', 'x', 'me')`},
		{"minute_is_whole", `INSERT INTO outbox_minutes VALUES ('2026-11-22 09:00:01Z', 's', 'created', 1)`},
		{"source_fits_an_index", `INSERT INTO outbox_minutes VALUES ('2026-11-22 09:00:00Z', repeat('x', 1001), 'created', 1)`},
		{"outcome_is_final", `INSERT INTO outbox_minutes VALUES ('2026-11-22 09:00:00Z', 's', 'pending', 1)`},
		{"something_settled", `INSERT INTO outbox_minutes VALUES ('2026-11-22 09:00:00Z', 's', 'created', 0)`},
		{"there_is_one_end", `INSERT INTO outbox_counted (only_row) VALUES (false)`},
		{"shut_for_a_reason", `UPDATE outbox_gate SET held_since = now()`},
		{"setup_times_are_finite", `UPDATE outbox_setups SET due_at = 'infinity'`},
		{"setup_times_are_finite", `UPDATE outbox_setups SET created_at = '-infinity'`},
		{"checks_have_room", `UPDATE outbox_setups SET checks = 2000000000`},
		{"setup_word_is_known", `UPDATE outbox_setups SET word = 'perhaps', why = 'x', due_at = NULL, decided_at = now()`},
		{"setup_is_due_until_decided", `UPDATE outbox_setups SET word = 'confirmed'`},
		{"setup_is_due_until_decided", `UPDATE outbox_setups SET due_at = NULL`},
		{"setup_is_due_until_decided", `UPDATE outbox_setups SET word = 'confirmed', due_at = NULL`},
		{"setup_failed_has_a_kind", `UPDATE outbox_setups SET word = 'setup_failed', why = 'x', due_at = NULL, decided_at = now()`},
		{"setup_failed_has_a_kind", `UPDATE outbox_setups SET error_kind = 'no_customer'`},
		{"setup_has_a_reason_unless_confirmed", `UPDATE outbox_setups SET word = 'unconfirmed', due_at = NULL, decided_at = now()`},
		{"setup_published_after_decided", `UPDATE outbox_setups SET published_at = now()`},
		{"there_is_one_confirmation", `INSERT INTO outbox_confirmation (only_row) VALUES (false)`},
		{"refusals_are_counted_from_0", `UPDATE outbox_confirmation SET refused = -1`},
		{"off_for_a_reason", `UPDATE outbox_confirmation SET off_since = now()`},
	} {
		tried[tt.name] = true
		_, err := s.pool.Exec(t.Context(), tt.sql)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.ConstraintName != tt.name {
			t.Errorf("%s: %s: %v", tt.name, tt.sql, err)
		}
	}
	rows, err := s.pool.Query(t.Context(), `
		SELECT conname FROM pg_constraint LEFT JOIN pg_class c ON c.oid = conrelid LEFT JOIN pg_type d ON d.oid = contypid
		 WHERE connamespace = current_schema()::regnamespace AND contype IN ('c', 'u') AND coalesce(c.relname, d.typname) LIKE 'outbox%'`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		if !tried[name] {
			t.Errorf("constraint %s is not tried", name)
		}
	}
}
