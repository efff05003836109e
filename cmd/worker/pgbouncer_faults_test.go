//go:build faults

package main

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/faultproxy"
	"flexworker/internal/testing/pgtest"
)

// TestBehindPgbouncer: two replicas behind pgbouncer in transaction mode, set up as docs/scale.md says. Under load
// pgbouncer is killed and started again. Nothing is lost, doubled or uncertain by it.
func TestBehindPgbouncer(t *testing.T) {
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			t.Fatal("pgbouncer is missing: make faults installs it on Debian")
		}
	}
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "scale.md"))
	must(t, err)
	server := pgtest.NewServer(t)
	r := rigOn(t, server.DSN("postgres"))
	settings := regexp.MustCompile(`(?m)^ +ALTER ROLE worker IN DATABASE worker (SET .*;)`).FindAllStringSubmatch(string(page), -1)
	ignored := regexp.MustCompile(`(?m)^ +(ignore_startup_parameters = .*)$`).FindStringSubmatch(string(page))
	if len(settings) < 10 || ignored == nil {
		t.Fatal("docs/scale.md says otherwise what to set")
	}
	r.must(`CREATE ROLE worker LOGIN SUPERUSER`)
	for _, s := range settings {
		r.must(`ALTER ROLE worker IN DATABASE postgres ` + s[1])
	}
	port, err := faultproxy.FreePort()
	must(t, err)
	_, behind, _ := strings.Cut(server.Addr(), ":")
	ini := filepath.Join(t.TempDir(), "pgbouncer.ini")
	must(t, os.WriteFile(ini, fmt.Appendf(nil, "[databases]\npostgres = host=127.0.0.1 port=%s user=worker\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\n"+
		"auth_type = any\npool_mode = transaction\ndefault_pool_size = 8\nunix_socket_dir =\n%s\n", behind, port, ignored[1]), 0o644)) // pgbouncer reads it, as another user
	for dir := filepath.Dir(ini); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	bounce := func() (kill func()) {
		t.Helper()
		c := exec.Command(program, ini)
		if os.Geteuid() == 0 {
			c = exec.Command(program, "-u", "postgres", ini)
		}
		log := &expect.Log{}
		c.Stdout, c.Stderr = log, log
		must(t, c.Start())
		done := make(chan struct{})
		go func() { defer close(done); _ = c.Wait() }()
		kill = func() { _ = c.Process.Signal(syscall.SIGKILL); <-done }
		t.Cleanup(func() {
			kill()
			if t.Failed() {
				t.Logf("pgbouncer wrote:\n%s", log.String())
			}
		})
		return kill
	}
	kill := bounce()
	way := url.URL{Scheme: "postgres", User: url.User("worker"), Host: fmt.Sprintf("127.0.0.1:%d", port), Path: "postgres", RawQuery: "sslmode=disable&default_query_exec_mode=exec"}
	in := r.read()
	var fleet []*child
	for range 2 {
		w := r.command(append(r.environment(unhurriedCalls, "MIGRATE=false"), "DATABASE_URL="+way.String()), "run")
		r.says(w.address, "ok", 200)
		fleet = append(fleet, w)
	}
	sending := r.load()
	in.goesOn()
	kill()
	r.says(fleet[0].address, "database", 503)
	bounce()
	in.goesOn()
	for _, w := range fleet {
		r.says(w.address, "ok", 200)
	}
	sent := sending.stop()
	in.balanced(sent)
	r.uncounted()
	used := pgtest.One[int](t, r.pool, `SELECT count(*) FROM pg_stat_activity WHERE usename = 'worker'`)
	for _, w := range fleet {
		stopped(t, w)
	}
	r.types(r.environment(), typed{[]string{"audit"}, 0, nil})
	fmt.Printf("%s: %d requests by two replicas over %d connections, pgbouncer killed once, none lost, doubled or counted\n", t.Name(), sent, used)
}
