package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestStayed: what --stay prints can be typed. The first line reads a file with the settings that the replicas have, without
// real credentials; the addresses are those of the replicas that still answer.
func TestStayed(t *testing.T) {
	t.Parallel()
	alive := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer alive.Close()
	const dead = 1 // no server of another test can come to listen there
	at := func(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }
	port := func(s *httptest.Server) int {
		_, text, _ := strings.Cut(at(s), ":")
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	addresses := answering(t.Context(), door{ports: [replicas]int{dead, port(alive)}})
	if len(addresses) != 1 || addresses[0] != at(alive) {
		t.Fatalf("answering: %v, want %s alone", addresses, at(alive))
	}
	environment := []string{"DATABASE_URL=postgres://p@127.0.0.1:5000/postgres?sslmode=disable", "NATS_URL=nats://127.0.0.1:4000", "ADMIN_ADDR=" + at(alive), "ADMIN_TOKEN=demo-x",
		"FLEX_TIMEOUT=3s", "LOOKUP_SETTLE=3s", "FLEX_URL=http://127.0.0.1:6000", "TASKROUTER_URL=http://127.0.0.1:6000",
		"TWILIO_ACCOUNT_SID=ACx", "TWILIO_AUTH_TOKEN=it's secret", "PATH=/bin"}
	path, remove, err := writeExports(t.TempDir(), exports(environment, false))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: it has a password", info, err)
	}
	text := stayed(environment, path, false, "psql 'postgres://p'", "/x/workers.log", addresses)
	for _, want := range []string{
		"type first:\n\n  source " + path + "\n",
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
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `. "$0" && exec env`, path)
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
	if text := exports(environment, true); strings.Contains(text, "secret") || !strings.Contains(text, "# TWILIO_AUTH_TOKEN: export it") {
		t.Errorf("with real credentials:\n%s", text)
	}
	if text := stayed(environment, path, true, "psql", "/x/workers.log", nil); strings.Contains(text, "secret") || !strings.Contains(text, "export your credentials") {
		t.Errorf("with real credentials:\n%s", text)
	}
	remove()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("after the demo it is still there: %v", err)
	}
}

// TestExportsOfALaterDemo: the end of one demo leaves the exports of another that was begun in the same folder.
func TestExportsOfALaterDemo(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	_, remove, err := writeExports(folder, "export A=1\n")
	if err != nil {
		t.Fatal(err)
	}
	path, _, err := writeExports(folder, "export A=2\n")
	if err != nil {
		t.Fatal(err)
	}
	remove()
	if text, err := os.ReadFile(path); err != nil || string(text) != "export A=2\n" {
		t.Errorf("%q, %v", text, err)
	}
}
