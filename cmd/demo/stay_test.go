package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestStayed: what --stay prints can be typed: the settings for README's commands,
// and the addresses of the replicas that still answer.
func TestStayed(t *testing.T) {
	t.Parallel()
	alive := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer alive.Close()
	dead := httptest.NewServer(nil)
	dead.Close()
	at := func(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }
	log := `{"level":"INFO","msg":"health and metrics","worker":"a","address":"` + at(dead) + `"}` + "\n" +
		`{"level":"INFO","msg":"health and metrics","worker":"b","address":"` + at(alive) + `"}` + "\n" +
		`{"level":"INFO","msg":"attempt","address":"192.0.2.1:80"}` + "\nno JSON\n"
	addresses := answering(t.Context(), log)
	if len(addresses) != 1 || addresses[0] != at(alive) {
		t.Fatalf("answering: %v, want %s alone", addresses, at(alive))
	}
	text := stayed("nats://127.0.0.1:4000", "postgres://p@127.0.0.1:5000/postgres?sslmode=disable", "psql 'postgres://p'", "/x/workers.log", addresses)
	for _, want := range []string{
		"export DATABASE_URL='postgres://p@127.0.0.1:5000/postgres?sslmode=disable' NATS_URL='nats://127.0.0.1:4000'\n",
		"bin/worker send --wait 30s -\n",
		"curl http://" + at(alive) + "/readyz http://" + at(alive) + "/metrics\n",
		"psql 'postgres://p' -c 'TABLE outbox_backlog'\n", "tail -f /x/workers.log\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}
