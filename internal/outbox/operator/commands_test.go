package operator_test

import (
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"flexworker/internal/outbox/request"
	"flexworker/internal/testing/pgtest"
)

// TestExplainWhatIs: every state as it really stands in the table has its word.
func TestExplainWhatIs(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	everyState(t, s)
	for state, want := range map[request.State]string{
		request.Pending: "It is due", request.Sending: "It is being sent: worker w holds attempt 1", request.Uncertain: "It may exist, and no lookup can tell",
		request.Created: "It is created as " + sidA + " (Flex answered so)", request.Rejected: "It is rejected since", request.Abandoned: "It is abandoned since",
		request.Expired: "It is expired since", request.Cancelled: "It is cancelled since",
	} {
		if got, err := s.desk.Explain(t.Context(), string(state)); err != nil || !strings.Contains(got, "\n"+want) || strings.Contains(got, "%!") {
			t.Errorf("%s: %s, %v", state, got, err)
		}
	}
	if got, err := s.desk.Explain(t.Context(), "faulty"); err != nil || !strings.Contains(got, "channel: is no channel. It failed the check before Flex") {
		t.Errorf("faulty: %s %v", got, err)
	}
}

// TestPrintedCommandsSurviveTheShell: what explain and outbox_attention print is pasted into
// a real shell, with ids that their sender chose to do harm.
func TestPrintedCommandsSurviveTheShell(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "worker"), []byte("#!/bin/sh\nprintf '%s\\0' \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	read := func(command string) []string {
		cmd := shell(dir, command)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("sh -c %q: %v: %s", command, err, out)
		}
		return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	}
	ids := []string{"u;touch gone", "-77", "--absent", "it's", "'; touch gone '", `"$(touch gone)"`, "`touch gone`", "$HOME", "*", "a  b", `\`, `'\''`, "!!", "Zoë 日本", "plain-1"}
	for i, id := range ids {
		e := event(id, uint64(i+1))
		if _, err := s.store.Add(t.Context(), e); err != nil {
			t.Fatal(id, err)
		}
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox SET state = 'uncertain', attempt = 3, due_at = NULL, attempt_began_at = now(), uncertain_since = now(), for_person_since = now(), error_kind = 'timeout', error_message = E'a\nb\u001b[2J'`)
	for _, id := range ids {
		command := pgtest.One[string](t, s.pool, `SELECT command FROM outbox_attention WHERE id = $1`, id)
		if got := read(command); !slices.Equal(got, []string{"explain", "--", id}) {
			t.Errorf("outbox_attention's %s is read as %q", command, got)
		}
		text, err := s.desk.Explain(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var got [][]string
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "    ") {
				got = append(got, read(line))
			}
		}
		want := [][]string{{"resolve", "--created", "KD...", "--attempt", "3", "--why", "...", "--", id}, {"resolve", "--absent", "--unverified", "--attempt", "3", "--why", "...", "--", id}}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("explain prints %q, want %q", got, want)
		}
		if strings.ContainsAny(text, "\x1b\x00\r") || strings.Count(text, "\n") != 4 {
			t.Errorf("explain prints %q", text)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "gone")); err == nil {
		t.Error("a pasted command did what a sender wanted")
	}
}

func shell(dir, command string) *osexec.Cmd {
	cmd := osexec.Command("sh", "-c", command)
	cmd.Env, cmd.Dir = []string{"PATH=" + dir + ":/usr/bin:/bin", "HOME=/root"}, dir
	return cmd
}
