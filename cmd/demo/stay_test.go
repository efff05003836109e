package main

import (
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestStayed: what --stay prints can be typed: the settings that the replicas
// have, without real credentials, and the addresses of the replicas that still answer.
func TestStayed(t *testing.T) {
	t.Parallel()
	alive := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer alive.Close()
	dead := httptest.NewServer(nil)
	dead.Close()
	at := func(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }
	port := func(s *httptest.Server) int {
		_, text, _ := strings.Cut(at(s), ":")
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	addresses := answering(t.Context(), door{ports: [replicas]int{port(dead), port(alive)}})
	if len(addresses) != 1 || addresses[0] != at(alive) {
		t.Fatalf("answering: %v, want %s alone", addresses, at(alive))
	}
	environment := []string{"DATABASE_URL=postgres://p@127.0.0.1:5000/postgres?sslmode=disable", "NATS_URL=nats://127.0.0.1:4000", "ADMIN_ADDR=" + at(alive), "ADMIN_TOKEN=demo-x",
		"FLEX_TIMEOUT=3s", "LOOKUP_SETTLE=3s", "FLEX_URL=http://127.0.0.1:6000", "TASKROUTER_URL=http://127.0.0.1:6000",
		"TWILIO_ACCOUNT_SID=ACx", "TWILIO_AUTH_TOKEN=it's secret", "PATH=/bin"}
	text := stayed(environment, false, "psql 'postgres://p'", "/x/workers.log", addresses)
	for _, want := range []string{
		"http://" + at(alive) + "/   name: yours   token: demo-x\n",
		"bin/worker send --wait 30s -\n",
		"curl http://" + at(alive) + "/readyz http://" + at(alive) + "/metrics\n",
		"psql 'postgres://p' -c 'TABLE outbox_backlog'\n", "tail -f /x/workers.log\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	// What a shell makes of it is what the replicas have, but for what is that terminal's own.
	var exports strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "  export ") {
			exports.WriteString(line)
		}
	}
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", exports.String()+"exec env")
	cmd.Env = []string{}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := environment[:len(environment)-1]
	got := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(out)), "\n"), func(s string) bool {
		return strings.HasPrefix(s, "PWD=") || strings.HasPrefix(s, "_=") || strings.HasPrefix(s, "SHLVL=")
	})
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the shell has\n%q, want\n%q", got, want)
	}
	if text := stayed(environment, true, "psql", "/x/workers.log", nil); strings.Contains(text, "secret") || !strings.Contains(text, "export TWILIO_AUTH_TOKEN=...") {
		t.Errorf("with real credentials:\n%s", text)
	}
}
