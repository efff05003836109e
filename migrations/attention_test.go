package migrations_test

import (
	"testing"

	"flexworker/internal/outbox/outboxtest"
)

// TestAttentionGate: outbox_attention names the one command that opens the gate, whoever
// has shut it.
func TestAttentionGate(t *testing.T) {
	t.Parallel()
	dsn := outboxtest.NewDSN(t)
	up(t, dsn)
	conn := connect(t, dsn)
	for _, tt := range []struct{ name, probe, want string }{
		{"shut by the fleet", `clock_timestamp()`, `worker release --why '...'`},
		{"shut by a person", `NULL`, `worker release --why '...'`},
	} {
		if _, err := conn.Exec(t.Context(), `UPDATE outbox_gate SET held_since = clock_timestamp(), reason = 'a reason', probe_at = `+tt.probe); err != nil {
			t.Fatal(err)
		}
		got := names(t, conn, `SELECT command FROM outbox_attention WHERE what = 'gate' AND id = 'outbox_gate' AND since IS NOT NULL AND why = 'a reason'`)
		if len(got) != 1 || got[0] != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if _, err := conn.Exec(t.Context(), `UPDATE outbox_gate SET held_since = NULL, probe_at = NULL`); err != nil {
		t.Fatal(err)
	}
	if got := names(t, conn, `SELECT command FROM outbox_attention`); len(got) > 0 {
		t.Errorf("open: %q", got)
	}
}
