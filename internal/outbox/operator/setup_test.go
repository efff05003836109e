package operator_test

import (
	"strings"
	"testing"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/testing/pgtest"
)

// setups gives the created request set-ups in the forms that there are, one after another.
var setups = map[operator.SetupFilter]struct{ columns, says string }{
	operator.SetupWaiting: {`why = 'the channel is not set up', checks = 2, due_at = clock_timestamp() + interval '5 s'`,
		"Whether Flex has set up its channel is not known yet (2 looks; the channel is not set up): the next look is due"},
	operator.SetupConfirmed: {`word = 'confirmed', checks = 1, due_at = NULL, decided_at = clock_timestamp(), published_at = clock_timestamp()`,
		"Its channel is set up: confirmed at"},
	operator.SetupFailed: {`word = 'setup_failed', error_kind = 'channel_failed', error_code = 50416, why = 'in another conversation', checks = 1, due_at = NULL, decided_at = clock_timestamp()`,
		"in another conversation (Twilio code 50416). That is not published yet."},
	operator.SetupUnconfirmed: {`word = 'unconfirmed', why = 'it could not be read', checks = 4, due_at = NULL, decided_at = clock_timestamp()`,
		"was not found out: unconfirmed at"},
}

// TestSetups: a list chooses by what CONFIRM found, show and explain tell it, and an audit counts it.
func TestSetups(t *testing.T) {
	t.Parallel()
	for of, tt := range setups {
		t.Run(string(of), func(t *testing.T) {
			t.Parallel()
			s := newRig(t)
			everyState(t, s)
			if d, err := s.desk.Show(t.Context(), "created"); err != nil || d.Setup != nil {
				t.Fatalf("without CONFIRM: %+v %v", d.Setup, err)
			}
			pgtest.Exec(t, s.pool, `INSERT INTO outbox_setups (id, created_at, due_at) SELECT id, settled_at, settled_at FROM outbox WHERE state = 'created'`)
			pgtest.Exec(t, s.pool, `UPDATE outbox_setups SET `+tt.columns)
			for _, f := range append(operator.SetupFilters[:], "nonsense") {
				rows, err := s.desk.List(t.Context(), operator.Filter{Setup: f})
				if err != nil {
					t.Fatal(err)
				}
				if found := len(rows) == 1 && rows[0].RequestID == "created"; found != (f == of) || len(rows) > 1 {
					t.Errorf("--setup %s gives %+v", f, rows)
				}
			}
			d, err := s.desk.Show(t.Context(), "created")
			if err != nil || d.Setup == nil || (d.Setup.Word == nil) != (of == operator.SetupWaiting) {
				t.Fatalf("%+v %v", d.Setup, err)
			}
			text, err := s.desk.Explain(t.Context(), "created")
			if err != nil || !strings.Contains(text, tt.says) {
				t.Errorf("explain says %s, want %s; %v", text, tt.says, err)
			}
			const rule = "every set-up belongs to a created request"
			if offenders := offendersOf(t, s, rule); len(offenders) > 0 {
				t.Errorf("%v", offenders)
			}
			pgtest.Exec(t, s.pool, `INSERT INTO outbox_setups (id, created_at, due_at) SELECT id, received_at, received_at FROM outbox WHERE request_id = 'pending'`)
			if offenders := offendersOf(t, s, rule); len(offenders) != 1 {
				t.Errorf("a set-up of what is not created: %v", offenders)
			}
		})
	}
}

// offendersOf are what an audit of the tables finds against a rule.
func offendersOf(t *testing.T, s *rig, rule string) (ids []string) {
	t.Helper()
	report, err := s.desk.Audit(t.Context(), nil, nil, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range report.Offenders {
		if o.Rule == rule {
			ids = append(ids, o.ID)
		}
	}
	return ids
}
