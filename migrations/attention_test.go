package migrations_test

import (
	"testing"

	"flexworker/internal/testing/pgtest"
)

// TestAttentionGate: outbox_attention names what opens a gate that a person has shut.
func TestAttentionGate(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewDSN(t)
	up(t, dsn)
	conn := connect(t, dsn)
	if _, err := conn.Exec(t.Context(), `UPDATE outbox_gate SET held_since = clock_timestamp(), reason = 'a reason'`); err != nil {
		t.Fatal(err)
	}
	got := names(t, conn, `SELECT command FROM outbox_attention WHERE what = 'gate' AND id = 'outbox_gate' AND since IS NOT NULL AND why = 'a reason'`)
	if want := `worker release --why '...'`; len(got) != 1 || got[0] != want {
		t.Errorf("%q, want %q", got, want)
	}
	if _, err := conn.Exec(t.Context(), `UPDATE outbox_gate SET held_since = NULL`); err != nil {
		t.Fatal(err)
	}
	if got := names(t, conn, `SELECT command FROM outbox_attention`); len(got) > 0 {
		t.Errorf("open: %q", got)
	}
}
